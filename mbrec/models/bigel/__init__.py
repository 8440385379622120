"""BiGEL: behavior-informed graph embedding learning (arXiv 2601.07294)."""

from mbrec.models.bigel.model import Bigel, BigelConfig

__all__ = ["Bigel", "BigelConfig"]
