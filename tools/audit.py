"""Known vulnerabilities of what mbrec is installed with, by pip-audit.

    python tools/audit.py FILE… [--service osv|pypi] [--url URL]

Each FILE is a list of pinned requirements; what its markers leave out is not looked up. Exit codes:
0, nothing is known; 1, there are vulnerabilities; 3, the database could not be asked, so nothing is
known either way.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

FOUND, UNKNOWN = 1, 3
TIMEOUT = 15  # seconds per request


def pins(files: Sequence[Path]) -> list[str]:
    """name==version of everything that is pinned in some files, each once, for this Python."""
    found = set()
    for file in files:
        text = re.sub(r"\\\n", " ", file.read_text(encoding="utf-8"))
        for line in text.splitlines():
            plain = re.split(r"\s+--hash|\s+#", line)[0].strip()
            try:
                requirement = Requirement(plain)
            except InvalidRequirement:
                continue  # a comment, an option
            exact = re.fullmatch(r"==([^*]+)", str(requirement.specifier))
            if exact and (requirement.marker is None or requirement.marker.evaluate()):
                # A local version, as in 2.13.0+cpu, is a build of the version that is published.
                found.add(f"{requirement.name}=={exact[1].partition('+')[0]}")
    return sorted(found, key=str.lower)


def ask(wanted: Sequence[str], service: str, url: str | None) -> tuple[int, str]:
    """Run pip-audit on pinned requirements.

    Returns:
        The exit code and what to print.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        command = [
            *(sys.executable, "-m", "pip_audit", "--requirement", str(file), "--no-deps"),
            *("--disable-pip", "--format", "json", "--progress-spinner", "off"),
            *("--vulnerability-service", service, "--timeout", str(TIMEOUT)),
            *(("--osv-url", url) if url else ()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        rows: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return UNKNOWN, (
            f"NOT CHECKED: the database of vulnerabilities could not be asked ({reason}). Nothing "
            "is known of these packages; run it again where there is network."
        )
    return judge(rows)


def judge(rows: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """The exit code and what to print, of what pip-audit found."""
    skipped = [f"{row['name']}: {row['skip_reason']}" for row in rows if "skip_reason" in row]
    lines = [
        f"{row['name']} {row['version']}: {bug['id']}, mended in "
        f"{', '.join(bug['fix_versions']) or 'no release yet'}"
        for row in rows
        for bug in row.get("vulns", ())
    ]
    lines += [f"NOT CHECKED: {text}" for text in skipped]
    looked = len(rows) - len(skipped)
    if len(lines) > len(skipped):
        return FOUND, "\n".join([f"{looked} packages looked up:", *lines])
    if skipped or not rows:
        return UNKNOWN, "\n".join([*lines, f"{looked} packages looked up, not all."])
    return 0, f"{looked} packages looked up: no known vulnerability."


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is known; see the exit codes above."""
    parser = argparse.ArgumentParser(description="Known vulnerabilities of pinned packages.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--service", choices=["osv", "pypi"], default="osv")
    parser.add_argument("--url", help="Of another OSV server.")
    given = parser.parse_args(arguments)
    wanted = pins(given.files)
    code, text = ask(wanted, given.service, given.url)
    print(text, file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
