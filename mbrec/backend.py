"""The only module that imports DGL, and the only one that knows which versions work.

DGL 2.1.0 imports two things that a message-passing library does not need and that break on current
installations: ``setuptools.extern`` (gone from setuptools ≥ 71) and ``dgl.graphbolt``, whose shared
library is built for one exact torch release. The genuine import is tried first; what is missing,
and only that, is replaced by an empty module, and mbrec never uses it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import types
import warnings
from functools import lru_cache
from typing import Any

from mbrec.errors import DeviceError

TESTED_PAIRS = (
    "dgl 2.1.0 with torch 2.2 – 2.13 (CPU)",
    "dgl 2.4.0+cu124 with torch 2.4 (CUDA)",
)


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
            f"Pairs that work: {'; '.join(TESTED_PAIRS)}. "
            "Install one of them, or train with --engine torch, which needs no DGL.",
        ) from error


def shimmed_modules() -> tuple[str, ...]:
    """Names of the modules that were replaced to make DGL importable; empty if none."""
    dgl()
    return tuple(name for name, module in sys.modules.items() if "__mbrec_shim__" in vars(module))


def _import_dgl() -> Any:
    try:
        return importlib.import_module("dgl")
    except Exception:
        _forget_half_imported()
    _shim_setuptools_extern()
    try:
        return importlib.import_module("dgl")
    except Exception:
        _forget_half_imported()
    sys.modules["dgl.graphbolt"] = _empty_module("dgl.graphbolt")
    return importlib.import_module("dgl")


def _shim_setuptools_extern() -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module("setuptools.extern")
        return
    extern = _empty_module("setuptools.extern")
    extern.packaging = importlib.import_module("packaging")  # type: ignore[attr-defined]
    importlib.import_module("packaging.version")
    sys.modules["setuptools.extern"] = extern
    sys.modules["setuptools.extern.packaging"] = extern.packaging


def _forget_half_imported() -> None:
    """Drop what a failed import left behind, so that the next attempt starts anew."""
    for name in [name for name in sys.modules if name == "dgl" or name.startswith("dgl.")]:
        del sys.modules[name]


def _empty_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__mbrec_shim__ = True  # type: ignore[attr-defined]
    module.__path__ = []
    return module


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
