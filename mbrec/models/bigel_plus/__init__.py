"""BiGEL+: BiGEL, a contextual branch and what counts tell, stacked for every behavior."""

from mbrec.models.base import Entry
from mbrec.models.bigel_plus.model import BigelPlus, BigelPlusConfig

ENTRY = Entry(
    BigelPlusConfig,
    BigelPlus,
    train={"lr": 2e-3, "negatives": 4, "epochs": 40, "patience": 5, "average": 0.95},
)

__all__ = ["ENTRY", "BigelPlus", "BigelPlusConfig"]
