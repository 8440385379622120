"""Which versions made an artefact."""

from __future__ import annotations

import platform
from importlib import metadata

from mbrec.version import __version__

PACKAGES = ("torch", "dgl", "numpy", "pandas", "pyarrow", "duckdb", "ibis-framework", "safetensors")


def versions() -> dict[str, str]:
    """Package → installed version; packages that are not installed are left out."""
    found = {"mbrec": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
