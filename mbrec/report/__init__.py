"""Reports on data and runs: one HTML page that needs nothing else. See docs/report.md."""

from mbrec.report.report import Report, write_report

__all__ = ["Report", "write_report"]
