"""BiGEL (arXiv 2601.07294): one module per part of the model, and the model in `model.py`."""

from mbrec.models.base import Entry
from mbrec.models.bigel.cgl import norms_of_all
from mbrec.models.bigel.model import Bigel, BigelConfig

ENTRY = Entry(
    BigelConfig,
    Bigel,
    train={"lr": 3e-3, "negatives": 4, "average": 0.95},
    undividable=norms_of_all,
)

__all__ = ["ENTRY", "Bigel", "BigelConfig"]
