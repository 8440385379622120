"""Load figures of `mbrec serve`: requests per second, and how long they take.

    python benchmarks/serve.py RUN [--seconds 10] [--concurrency 1 8] [--k 20]

Starts the service on a free port, asks for lists of random users one after the other over as many
connections as `--concurrency` says, and prints one row per level. The client runs in a process of
its own and takes its share of the cores; the figures are those of a machine that does both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import re
import subprocess
import sys
import time
from urllib.parse import quote

import httpx2
import numpy as np

from mbrec.run import Run

START = "import sys; from mbrec.cli.main import main; main(sys.argv[1:])"


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--data")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--k", type=int, default=20)
    options = parser.parse_args()
    run = Run(options.run)
    users = [quote(str(user), safe="") for user in run.user_ids.to_pylist()]
    paths = [f"/users/{user}/top?behavior={run.behaviors[-1]}&k={options.k}" for user in users]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load}")
    print(f"{run.model}, {len(users):,} users x {len(run.item_ids):,} items, k = {options.k}")
    print("| connections | requests | per second | p50 ms | p99 ms | not 200 |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    arguments = ["serve", options.run, "--port", "0"]
    arguments += ["--data", options.data] if options.data else []
    command = [sys.executable, "-c", START, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = re.search(r"http://[\d.]+:\d+", process.stderr.readline())
            assert found, "the service did not start"
            for count in options.concurrency:
                print(row(found[0], paths, count, options.seconds), flush=True)
        finally:
            process.terminate()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"load at the end {load}")


def row(url: str, paths: list[str], count: int, seconds: float) -> str:
    """Measure one level of concurrency, after a second of warming up."""
    asyncio.run(ask(url, paths, count, 1.0))
    start = time.perf_counter()
    answers = asyncio.run(ask(url, paths, count, seconds))
    took = time.perf_counter() - start
    times = np.array([latency for latency, _ in answers]) * 1e3
    failed = sum(status != 200 for _, status in answers)
    median, worst = np.percentile(times, [50, 99])
    rate = len(answers) / took
    return f"| {count} | {len(answers)} | {rate:.0f} | {median:.1f} | {worst:.1f} | {failed} |"


async def ask(url: str, paths: list[str], count: int, seconds: float) -> list[tuple[float, int]]:
    """Ask over `count` connections until the time is up: latency in seconds, and status."""
    until = time.perf_counter() + seconds
    answers: list[tuple[float, int]] = []

    async def one(seed: int) -> None:
        chosen = random.Random(seed)
        async with httpx2.AsyncClient(base_url=url, timeout=60.0) as client:
            while (start := time.perf_counter()) < until:
                answer = await client.get(chosen.choice(paths))
                answers.append((time.perf_counter() - start, answer.status_code))

    await asyncio.gather(*(one(seed) for seed in range(count)))
    return answers


if __name__ == "__main__":
    main()
