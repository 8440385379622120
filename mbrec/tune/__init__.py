"""The search for settings: trials on validation rows, resumable, with Optuna (extra `tune`).

space    what a search may change, from TOML       trial    one trial: train, measure, delete
pool     who runs trials: this process or others   study    what Optuna knows: asks, tells, prunes
folder   the study's folder                        tune     the whole, resumable
summary  a study as plain values, without Optuna
"""

from __future__ import annotations

from mbrec.tune.summary import StudySummary, TrialSummary, study_summary

__all__ = ["StudySummary", "TrialSummary", "study_summary"]
