"""Tries what training needs, one step after the other, and says on stdout how each went.

`mbrec doctor` runs this module in a process of its own (`python -m mbrec.probe`): a library that is
built for another one may not raise an error but end the process. Every step prints one line of
JSON: `{"step": …, "ok": …, "detail": …}`, with further keys for some steps.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

LIBRARIES = ("numpy", "pandas", "pyarrow", "duckdb", "ibis", "pydantic", "safetensors")
TOLERANCE = 1e-4  # of float32 sums over a few dozen neighbors


def main() -> None:
    """Run all steps that the earlier ones allow."""
    for name in LIBRARIES:
        _step(name, partial(_library, name))
    if not _step("torch", _torch):
        return
    dgl = _step("dgl", _dgl)
    import torch

    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for engine in ("dgl", "torch"):
            if engine == "torch" or dgl:
                _step(f"{engine} on {device}", partial(_propagate, engine, device))


def _step(name: str, run: Callable[[], dict[str, Any]]) -> bool:
    print(json.dumps({"step": name, "begins": True}), flush=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = {"ok": True, **run()}
    except Exception as error:  # whatever a broken library raises is what is to be reported
        first = (str(error).strip().splitlines() or ["no message"])[0]
        said = {"ok": False, "detail": f"{type(error).__name__}: {first}"}
    print(json.dumps({"step": name, **said}), flush=True)
    return bool(said["ok"])


def _library(name: str) -> dict[str, Any]:
    return {"detail": _version(importlib.import_module(name))}


def _torch() -> dict[str, Any]:
    import torch

    devices = [
        {
            "name": torch.cuda.get_device_name(index),
            "memory": torch.cuda.get_device_properties(index).total_memory,
        }
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    return {
        "detail": torch.__version__,
        "cuda_build": torch.version.cuda,
        "cuda_devices": devices,
        "threads": torch.get_num_threads(),
    }


def _dgl() -> dict[str, Any]:
    from mbrec.backend import dgl, shimmed_modules

    return {"detail": _version(dgl()), "shimmed": list(shimmed_modules())}


def _propagate(engine: str, device: str) -> dict[str, Any]:
    """One propagation with gradients on a small graph, against sums in plain torch."""
    import numpy as np
    import torch

    from mbrec.engines import DglEngine, Engine, TorchEngine
    from mbrec.graph import Pairs, build_graph
    from mbrec.propagation import Nodes

    users, items, size = 40, 30, 8
    rng = np.random.default_rng(0)
    keys = rng.choice(users * items, 300, replace=False)
    pairs = Pairs((keys // items).astype(np.int32), (keys % items).astype(np.int32))
    user_emb, item_emb = (
        torch.from_numpy(rng.standard_normal((count, size), dtype=np.float32))
        .to(device)
        .requires_grad_()
        for count in (users, items)
    )
    built: Engine = TorchEngine({"click": pairs}, users, items, device)
    if engine == "dgl":
        built = DglEngine(build_graph({"click": pairs}, users, items), device)
    got = built.aggregate("click", Nodes(user_emb, item_emb))
    u, i = (torch.from_numpy(index).long().to(device) for index in (pairs.user_idx, pairs.item_idx))
    want = Nodes(
        torch.zeros_like(user_emb).index_add(0, u, item_emb[i]),
        torch.zeros_like(item_emb).index_add(0, i, user_emb[u]),
    )
    off = max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True))
    # What training does: the same sums, of which each edge has a weight.
    ways, roots = built.normalized("click"), [n.clamp(min=1).sqrt() for n in built.degrees("click")]
    for way, sums, own, table, others in (
        (ways.user, want.user, roots[0], item_emb, roots[1]),
        (ways.item, want.item, roots[1], user_emb, roots[0]),
    ):
        with torch.no_grad():
            scaled = own.unsqueeze(1) * way.sums(table * others.unsqueeze(1))
        off = max(off, float((scaled - sums).abs().max()))
    gradients = [
        torch.autograd.grad(n.user.square().sum() + n.item.square().sum(), (user_emb, item_emb))
        for n in (got, want)
    ]
    slope = max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))
    if off > TOLERANCE or slope > 100 * TOLERANCE:
        raise ArithmeticError(f"sums are off by {off:.1e}, gradients by {slope:.1e}")
    return {"detail": f"sums within {off:.0e}, gradients within {slope:.0e}"}


def _version(module: Any) -> str:
    return str(getattr(module, "__version__", "unknown version"))


if __name__ == "__main__":
    main()
