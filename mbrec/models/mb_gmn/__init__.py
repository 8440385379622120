"""MB-GMN (Xia et al., SIGIR 2021): one module per part, and the model in `model.py`."""

from mbrec.models.base import Entry
from mbrec.models.mb_gmn.model import MbGmn, MbGmnConfig

ENTRY = Entry(
    MbGmnConfig,
    MbGmn,
    train={"lr": 5e-3, "negatives": 4, "patience": 15, "average": 0.95},
)

__all__ = ["ENTRY", "MbGmn", "MbGmnConfig"]
