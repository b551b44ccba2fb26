"""Runs that were interrupted, made of finished ones."""

from pathlib import Path


def as_if_interrupted(records: Path, trials: int | None = None) -> None:
    """Leave a file of records and its manifest as an interruption would: with the first `trials` of them, or all."""
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(lines[:trials]))
    manifest = records.with_suffix(".manifest.json")
    manifest.write_text(manifest.read_text().replace('"finished": true', '"finished": false'))
