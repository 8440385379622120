"""MB-GMN (Xia et al., SIGIR 2021): one module per part, and the model in `model.py`."""

from mbrec.models.base import Entry
from mbrec.models.mb_gmn.model import MbGmn, MbGmnConfig

ENTRY = Entry(MbGmnConfig, MbGmn, train={"lr": 2e-3, "patience": 15})

__all__ = ["ENTRY", "MbGmn", "MbGmnConfig"]
