"""The report: one self-contained HTML page that shows what came out of a run."""
