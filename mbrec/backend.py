"""The only module that imports DGL, and the only one that knows which versions work.

DGL 2.1.0 loads `dgl.graphbolt`, which message passing does not need and which breaks on current
installations: it asks for a torchdata long gone, and its library is built for one exact torch
release. The genuine import is tried first; only if it fails is that one module replaced by an empty
one, which mbrec never uses. (DGL looks for `packaging`, too: setup.py asks for it.)
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
import warnings
from functools import lru_cache
from typing import Any

from mbrec.errors import DeviceError

TESTED_PAIRS = (
    "dgl 2.1.0 with torch 2.13.0 and numpy 2.4 (CPU)",
    "dgl 2.1.0 with torch 2.2.1 and numpy 1.26 (CPU)",
)

SHIMMED = "dgl.graphbolt"


@lru_cache(maxsize=1)
def dgl() -> Any:
    """The imported DGL module.

    Raises:
        DeviceError: DGL is not installed or cannot be imported, naming the pairs that work.
    """
    # Without this DGL writes a configuration file into the home folder at its first import.
    os.environ.setdefault("DGLBACKEND", "pytorch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _import_dgl()
    except Exception as error:  # DGL fails in many ways: ImportError, FileNotFoundError, OSError …
        raise DeviceError(
            f"DGL cannot be imported ({type(error).__name__}: {_first_line(error)}).",
            f"Tested pairs: {'; '.join(TESTED_PAIRS)}. "
            "Install one of them, or train with --engine torch, which needs no DGL; "
            "`mbrec doctor` says more.",
        ) from error


def add_sums(graph: Any, source: Any, sums: Any) -> None:
    """Add the sums over neighbors to `sums`, in place; not differentiable.

    On the CPU, DGL's kernel adds to what its output holds, so calling it directly saves a new
    tensor of zeros and the pass that adds it. It is no public function of DGL: where it is missing
    or does something else, the public one is used.

    Args:
        graph: Of one relation.
        source: Of its source nodes, (S, d).
        sums: Of its destination nodes, (T, d), contiguous.
    """
    if source.device.type == "cpu" and _kernel_adds():
        if graph.num_edges():
            _kernel(graph, source, sums)
    else:
        sums.add_(dgl().ops.copy_u_sum(graph, source))


def _kernel(graph: Any, source: Any, sums: Any) -> None:
    kernels = sys.modules["dgl._sparse_ops"]
    none = kernels.to_dgl_nd_for_write(None)
    kernels._CAPI_DGLKernelSpMM(
        graph._graph,
        "copy_lhs",
        "sum",
        kernels.to_dgl_nd(source),
        kernels.to_dgl_nd(None),
        kernels.to_dgl_nd_for_write(sums),
        none,
        none,
    )


@lru_cache(maxsize=1)
def _kernel_adds() -> bool:
    """Whether the kernel of this DGL adds to its output, tried on a small graph."""
    import torch

    # 40 sources with 2 edges each to the first 3 of 4 nodes: many edges per node, and none.
    begins = torch.arange(40).repeat(2)
    graph = dgl().heterograph(
        {("a", "to", "b"): (begins, (begins + torch.arange(80) // 40) % 3)}, {"a": 40, "b": 4}
    )
    try:
        for width in (1, 3, 16, 64, 100):  # DGL has kernels of its own for some
            source = torch.arange(40.0 * width).view(40, width)
            sums = torch.full((4, width), 7.0)
            expected = sums + dgl().ops.copy_u_sum(graph, source)
            _kernel(graph, source, sums)
            if not torch.equal(sums, expected):
                return False
    except Exception:  # a function that is not public may fail in any way
        return False
    return True


def shimmed_modules() -> tuple[str, ...]:
    """Names of the modules that were replaced to make DGL importable; empty if none."""
    dgl()
    return (SHIMMED,) if isinstance(sys.modules.get(SHIMMED), _Shim) else ()


class _Shim(types.ModuleType):
    """An empty module that stands where DGL expects one."""


def _import_dgl() -> Any:
    try:
        return importlib.import_module("dgl")
    except Exception:
        _forget_half_imported()
        if importlib.util.find_spec("dgl") is None:
            raise
    sys.modules[SHIMMED] = _Shim(SHIMMED)
    try:
        return importlib.import_module("dgl")
    except Exception:
        _forget_half_imported()
        raise


def _forget_half_imported() -> None:
    """Drop what a failed import left behind, so that the next attempt starts anew."""
    for name in [name for name in sys.modules if name == "dgl" or name.startswith("dgl.")]:
        del sys.modules[name]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
