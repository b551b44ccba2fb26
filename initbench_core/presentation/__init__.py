"""Figures and reports, drawn from records."""
