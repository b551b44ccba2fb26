"""Overflow and underflow: powers of diag(10) and diag(0.1) in four number formats.

Question: after how many layers does the simplest exploding, or vanishing, network leave each number format?

The lecture this grows from multiplies 100 such layers and labels a range of 10^+-300 "float32": that is float64's.
float32 ends at 3.4e38 above and 1.4e-45 below. It also calls an underflow NaN: an underflow gives 0, an overflow gives
inf, and NaN comes only from them, as inf - inf or 0 * inf; and it writes 0.1^100 as 1^-100, which is 1.

Expected: the product of diag(10) passes the largest number of float16 at power 5, of bfloat16 and float32 at 39, of
float64 at 309; diag(0.1) falls below the smallest at 8, 41, 46 and 324 (a power more or less, as rounding has it).
Source: IEEE 754-2019 binary formats; bfloat16 has float32's exponent and 8 significant bits.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from matplotlib.figure import Figure

from initbench_core.errors import check_choice
from initbench_core.presentation import plots
from initbench_core.presentation.finding import Finding
from initbench_core.records.frame import per_trial
from initbench_core.records.schema import Emission, Measurement, Record, scalar
from initbench_core.training.setting import Setting

DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Config:
    """Powers of diag(base) in one format."""

    dtype: str
    base: float
    powers: int = 350


def grid(setting: Setting) -> Iterator[Config]:
    """Four formats, either base; it takes no time and has no seed, so every profile is the same."""
    for base in (10.0, 0.1):
        for dtype in DTYPES:
            yield Config(dtype, base)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Multiply (1, 1) by diag(base) again and again, in the format itself."""
    check_choice("format", config.dtype, DTYPES)
    dtype: torch.dtype = getattr(torch, config.dtype)
    weights = torch.diag(torch.tensor([config.base, config.base], dtype=dtype, device=setting.device))
    h = torch.ones(2, 1, dtype=dtype, device=setting.device)
    values = []
    for _ in range(config.powers):
        h = weights @ h
        # The other entry of the row contributes 0 * h: NaN once h is inf, as in any real layer.
        values.append(h[0].item())
        if not math.isfinite(values[-1]) or values[-1] == 0:
            break
    yield Measurement("product", "1", values, {"power": list(range(1, len(values) + 1))})
    yield scalar("limit_power", "layers", len(values))


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per format: range, and the power that leaves it."""
    frame = per_trial(records)
    rows = []
    for dtype in DTYPES:
        finfo = torch.finfo(getattr(torch, dtype))
        limits = frame[frame["dtype"] == dtype].set_index("base")["limit_power"].astype(int)
        rows.append(
            {
                "format": dtype,
                "largest": float(finfo.max),
                "smallest above 0": float(finfo.smallest_normal * finfo.eps),
                "diag(10) overflows at power": limits[10.0],
                "diag(0.1) underflows to 0 at power": limits[0.1],
            }
        )
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """The powers, in a sentence."""
    rows = table(records)
    up = ", ".join(f"{r.format} at {r[4]}" for r in rows.itertuples())
    down = ", ".join(f"{r.format} at {r[5]}" for r in rows.itertuples())
    yield Finding(f"diag(10) overflows to inf in {up} layers.", "powers")
    yield Finding(
        f"diag(0.1) underflows to 0, not to NaN, in {down} layers; 100 layers are too many for all but float64.",
        "powers",
    )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """How many layers each format lasts, either way."""
    rows = table(records)
    figure, axes = plots.panels(
        1, 2, title="How many layers of 10s, or of 0.1s, each number format lasts", height=2.6, sharey=True
    )
    sides = (("diag(10): overflow to inf", 4, "diverged"), ("diag(0.1): underflow to 0", 5, "stalled"))
    for panel, (title, column, outcome) in zip(axes, sides, strict=True):
        limits = rows.iloc[:, column - 1]
        bars = panel.barh(rows["format"], limits, color=plots.OUTCOME_STYLE[outcome][0], height=0.6)
        panel.bar_label(bars, padding=4)
        panel.axvline(100, color=plots.INK, lw=1.0, ls=":")
        panel.set_xlim(0, 360)
        panel.grid(axis="y", visible=False)
        plots.label(panel, x="layers (power of the matrix)", y="", title=title)
    axes[0].invert_yaxis()
    axes[0].annotate("the lecture's 100 layers", (104, 0.1), fontsize=8, color=plots.INK)
    return {"powers": figure}
