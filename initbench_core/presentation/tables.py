"""Tables of the report: a cell as text, a data frame as Markdown."""

import math

import numpy as np
import pandas as pd


def cell_text(value: object) -> str:
    """Return what a cell shows: numbers with four digits, missing ones as a dash."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    return str(value)


def markdown(frame: pd.DataFrame) -> str:
    """Return a data frame as a Markdown table."""
    lines = [[escaped(column) for column in frame.columns], ["---"] * len(frame.columns)]
    lines += [[escaped(value) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escaped(value: object) -> str:
    """Return what a cell shows in Markdown, where a bar would end it."""
    return cell_text(value).replace("|", "\\|")
