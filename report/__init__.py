"""The report: one self-contained HTML page that shows what came out of a run."""

from report.build import ReportData, write_report

__all__ = ["ReportData", "write_report"]
