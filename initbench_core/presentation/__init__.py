"""Presentation: figures, progress and the report. matplotlib is imported here only."""
