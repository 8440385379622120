"""One seed for a run, spawned into named streams.

Every draw comes from a generator made from (seed, stream name, counter), e.g. (7, "sampling",
epoch 12). Nothing has to be stored to resume: epoch 12 draws the same numbers whether or not the
process was restarted before it, and a new stream never shifts the draws of another.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator(
    seed: int, stream: str, counter: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator for the `counter`-th use of `stream` under `seed`."""
    spawned = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(stream.encode()), counter))
    # 63 bits: torch takes a signed 64-bit integer.
    state = int(spawned.generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device=device).manual_seed(state)
