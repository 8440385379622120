"""From a raw event log to a prepared dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbrec.data_prep.options import PrepOptions
    from mbrec.data_prep.pipeline import prepare

__all__ = ["PrepOptions", "prepare"]


def __getattr__(name: str) -> Any:
    # On first use: the pipeline imports the database engine, which `mbrec synth --help` need not.
    if name == "PrepOptions":
        from mbrec.data_prep.options import PrepOptions

        return PrepOptions
    if name == "prepare":
        from mbrec.data_prep.pipeline import prepare

        return prepare
    raise AttributeError(f"module 'mbrec.data_prep' has no attribute {name!r}")
