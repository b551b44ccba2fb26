"""Fifty layers forward: one layer applied again and again, and fresh layers.

Question: what happens to a signal in 50 ReLU layers of width 512 with weights of std 1, and of He's std sqrt(2/512)?

The notebook this grows from draws one matrix and applies it 50 times: a recurrent network, not a deep one. Its "He"
signal drifts by a factor of 12, which is the matrix's own leading eigenvalue at work and no property of He's scale; and
it calls an overflowing forward pass an exploding gradient, though nothing runs backward. Both are measured here: `tied`
as the notebook ran it, `fresh` as its text meant it. Its default biases, U(+-1/sqrt(512)), are left in; they do not
matter. It also compares the variance of x @ W with 512, as does the `product` arm here.

Expected: at std 1 each layer multiplies the scale by sqrt(512 / 2) = 16, so float32 overflows near layer 31. At He's
std fresh layers keep the scale: the log of the std scatters by about 0.35 over networks after 50 layers (finite width),
tied ones by about 2.
Source: He et al. 2015, section 2.2; Hanin & Nica 2020 for the finite-width scatter.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from initbench_core.errors import check_choice
from initbench_core.networks.theory import relu_growth
from initbench_core.presentation import plots
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.statistics import spread
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Emission, Measurement, Record
from initbench_core.training.setting import Setting

ARMS = ("tied", "fresh", "product")
SCALES = {"one": 1.0, "he": math.sqrt(2 / 512)}


@dataclass(frozen=True)
class Config:
    """Many networks of one kind, or many products x @ W."""

    arm: str  # a name of ARMS
    scale: str  # a name of SCALES
    draws: int
    layers: int = 50
    width: int = 512
    seed: int = 0


def grid(setting: Setting) -> Iterator[Config]:
    """Every arm at either scale; `draws` networks each."""
    draws = setting.pick(smoke=2, quick=30, full=200)
    for arm in ("tied", "fresh"):
        for scale in SCALES:
            yield Config(arm, scale, draws)
    yield Config("product", "one", draws=setting.pick(smoke=10, quick=200, full=1000), layers=1)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Draw the networks one after another, in float32: its overflow is part of the result.

    The statistics are taken in float64; squares of float32 activations would leave its range first.
    """
    check_choice("arm", config.arm, ARMS)
    check_choice("scale", config.scale, SCALES)
    if config.arm == "product":
        yield from _products(config, setting)
        return
    statistics: dict[str, list[float]] = {"mean": [], "std": []}
    for draw in range(config.draws):
        x = torch.randn(config.width, device=setting.device)
        weight, bias = _layer(config, setting.device)
        for layer in range(config.layers):
            if layer and config.arm == "fresh":
                weight, bias = _layer(config, setting.device)
            x = torch.relu(weight @ x + bias)
            statistics["mean"].append(x.double().mean().item())
            statistics["std"].append(x.double().std().item())
        setting.progress((draw + 1) / config.draws)
    axes = {
        "layer": list(range(config.layers)) * config.draws,
        "draw": np.repeat(np.arange(config.draws), config.layers).tolist(),
    }
    for name, values in statistics.items():
        yield Measurement(name, "1", values, axes)


def _layer(config: Config, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of the arm's std and nn.Linear's default bias."""
    weight = torch.randn(config.width, config.width, device=device) * SCALES[config.scale]
    bias = torch.empty(config.width, device=device).uniform_(-1, 1) / math.sqrt(config.width)
    return weight, bias


def _products(config: Config, setting: Setting) -> Iterator[Emission]:
    variances = []
    for _ in range(config.draws):
        x = torch.randn(config.width, device=setting.device)
        variances.append((x @ torch.randn(config.width, config.width, device=setting.device)).var().item())
    yield Measurement("product_variance", "1", variances, {"draw": list(range(config.draws))})


def _final(frame: pd.DataFrame, arm: str, scale: str) -> np.ndarray:
    """Standard deviation behind the last layer of every network of an arm."""
    chosen = frame[(frame["arm"] == arm) & (frame["scale"] == scale) & (frame["metric"] == "std")]
    return chosen[chosen["layer"] == chosen["layer"].max()]["value"].to_numpy()


def _first_overflow(frame: pd.DataFrame, arm: str) -> float:
    """Median over networks of the first layer whose std is not finite in float32, at std 1."""
    chosen = frame[(frame["arm"] == arm) & (frame["scale"] == "one") & (frame["metric"] == "std")]
    bad = chosen[~np.isfinite(chosen["value"])]
    return float(bad.groupby("draw")["layer"].min().median()) if len(bad) else math.nan


def _log_scatter(values: np.ndarray) -> float:
    return float(np.log(values[np.isfinite(values) & (values > 0)]).std(ddof=1))


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per arm: the last layer over networks, and where float32 ends."""
    frame = tidy(records)
    rows = []
    for arm in ("tied", "fresh"):
        for scale in SCALES:
            final = _final(frame, arm, scale)
            finite = final[np.isfinite(final)]
            rows.append(
                {
                    "layers": arm,
                    "std of weights": SCALES[scale],
                    "networks": len(final),
                    "final std, median": float(np.median(finite)) if len(finite) else math.inf,
                    "min": finite.min() if len(finite) else math.inf,
                    "max": finite.max() if len(finite) else math.inf,
                    "scatter of log std": _log_scatter(final) if len(finite) > 1 else math.nan,
                    "first overflow (layer)": _first_overflow(frame, arm) if scale == "one" else math.nan,
                }
            )
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Drift of tied against fresh layers, overflow, and the product's variance."""
    frame = tidy(records)
    tied, fresh = _final(frame, "tied", "he"), _final(frame, "fresh", "he")
    yield Finding(
        f"At He's scale 50 fresh layers end at a std of {np.median(fresh):.2f} (median; {fresh.min():.2f} to "
        f"{fresh.max():.2f} over {len(fresh)} networks), one layer applied 50 times at {np.median(tied):.2f} "
        f"({tied.min():.3f} to {tied.max():.0f}); the log of the std scatters by {_log_scatter(fresh):.2f} over fresh "
        f"networks and {_log_scatter(tied):.2f} over tied ones.",
        "std",
    )
    yield Finding(
        f"At std 1 float32 overflows at layer {_first_overflow(frame, 'fresh'):.0f} (median), each layer multiplying "
        f"the scale by about {math.sqrt(relu_growth(512, 1.0)):.0f} = sqrt(512 / 2).",
        "std",
    )
    products = frame[frame["metric"] == "product_variance"]["value"].to_numpy()
    yield f"The variance of x @ W is {spread(products, form='.0f')}; theory: 512."


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """The std of the signal by layer, at either scale."""
    frame = tidy(records)
    frame = frame[frame["metric"] == "std"]
    figure, axes = plots.panels(
        1, 2, title="The scale of the signal: one layer applied again and again (tied), and fresh layers"
    )
    for panel, (scale, std) in zip(axes, SCALES.items(), strict=True):
        for color, arm in zip(plots.CYCLE, ("tied", "fresh"), strict=False):
            chosen = frame[(frame["arm"] == arm) & (frame["scale"] == scale)]
            for _, network in chosen.groupby("draw"):
                finite = network[np.isfinite(network["value"]) & (network["value"] > 0)]
                panel.plot(finite["layer"], finite["value"], color=color, lw=0.6, alpha=0.4)
            panel.plot([], [], color=color, label=f"{arm} ({chosen['draw'].nunique()} networks)")
        layers = np.arange(50 if scale == "he" else 32)
        start = SCALES[scale] * math.sqrt(512 / 2 * (1 - 1 / math.pi))  # Var relu(z) = (1 - 1/pi)/2 of z's variance
        plots.theory(panel, layers, start * relu_growth(512, std**2) ** (layers / 2))
        panel.set_yscale("log")
        plots.label(
            panel,
            x="layer, from 0 as the notebook counts",
            y="std of the activations",
            title=f"weights of std {std:.3g}",
        )
        panel.legend(loc="upper left")
    overflow = _first_overflow(tidy(records), "fresh")
    if np.isfinite(overflow):
        plots.mark_diverged(axes[0], overflow, "inf")
    return {"std": figure}
