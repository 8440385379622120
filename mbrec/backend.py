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
