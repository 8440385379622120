"""Which behaviors and neighbors carried a score, share by share. See docs/explain.md."""

from mbrec.explain.explanation import Explanation, explain_run

__all__ = ["Explanation", "explain_run"]
