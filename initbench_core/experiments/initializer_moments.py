"""Initializer moments: what each scheme draws, against its formula.

Question: do the weights of every scheme have the mean, variance and bounds that its formula promises, on linear,
convolution, grouped and transposed layers, with every gain?

The lecture this grows from gives the Xavier uniform bound as sqrt(2) * gain * 3 / sqrt(n + m). The 3 belongs under the
root: its bound is sqrt(3) too wide and its variance three times too large; both are drawn here. It writes one symbol
for both fans, and "N(0, sqrt(1/m))" with a standard deviation where its textbook writes a variance. The notebooks show
Linear(8, 1) with torch's default (bound 1/sqrt(8) = 0.354) and with Kaiming (0.866), initialize an output layer in
front of a sigmoid with gain 1, and look at the histogram of one layer 784-256 behind ReLU (sigmoid, tanh to be swapped
in by hand) for six initializers, of which "RandomNormal" has a std of 1 and so a pre-activation variance of 784.

Expected: the measured second moment (the variance, for a mean of 0) over the promised one is 1 within its sampling
error for every scheme but the lecture's bound (3). LSUV appears as the orthogonal matrices that it starts from.
Source: `networks.initializers` names the paper of each scheme; gains as in `networks.gains`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from initbench_core.errors import choose
from initbench_core.networks.activations import ACTIVATIONS, activation_function
from initbench_core.networks.fans import layer_fans
from initbench_core.networks.initializers import SCHEMES, Distribution, distribution, fill_weight_, parse_scheme
from initbench_core.presentation import plots
from initbench_core.presentation.finding import Finding
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Emission, Measurement, Record
from initbench_core.training.setting import Setting

Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
LAYERS: dict[str, Callable[[], Layer]] = {
    "linear_784_256": lambda: nn.Linear(784, 256),
    "linear_8_1": lambda: nn.Linear(8, 1),
    "conv_16_32_3x3": lambda: nn.Conv2d(16, 32, 3),
    "conv_16_32_3x3_groups_4": lambda: nn.Conv2d(16, 32, 3, groups=4),
    "conv_transpose_16_32_3x3": lambda: nn.ConvTranspose2d(16, 32, 3),
}
LECTURE = "lecture_xavier_uniform"
# Whose entries depend on one another: a matrix is filled as it is, not by more rows.
STRUCTURED = tuple(s for s, row in SCHEMES.items() if row.distribution in ("orthogonal", "dirac"))
HISTOGRAM_SCHEMES = ("normal(1)", "zeros", "xavier_normal", "xavier_uniform", "kaiming_normal", "kaiming_uniform")
HISTOGRAM_ACTIVATIONS = ("relu", "sigmoid", "tanh", "elu")
ENTRIES = 50_000  # at least so many weights per measured variance


@dataclass(frozen=True)
class Config:
    """A scheme on a layer, or a histogram behind one."""

    part: str  # "moments" or "histogram"
    scheme: str
    layer: str
    activation: str  # of the histogram; "" for moments, which take every gain
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Every scheme on every layer; every histogram of seed 0."""
    for seed in range(setting.seeds):
        for scheme in (*SCHEMES, LECTURE):
            for layer in LAYERS:
                if scheme == "dirac" and layer.startswith("linear"):
                    continue  # a Dirac kernel is a convolution's
                yield Config("moments", scheme, layer, "", seed)
    for scheme in HISTOGRAM_SCHEMES:
        for activation in HISTOGRAM_ACTIVATIONS:
            yield Config("histogram", scheme, "linear_784_256", activation, 0)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Fill the layer's weight often enough for a tight variance, or push one random input through it."""
    layer = choose("layer", config.layer, LAYERS)().to(setting.device)
    yield from choose("part", config.part, {"moments": _moments, "histogram": _histogram})(config, layer)


def _moments(config: Config, layer: Layer) -> Iterator[Emission]:
    fans = layer_fans(layer)
    uses_gain = config.scheme == LECTURE or parse_scheme(config.scheme)[0].uses_gain
    gains = list(ACTIVATIONS) if uses_gain else ["linear"]
    shape = layer.weight.shape
    # Entries are independent, so many fills of a small layer are one fill of a layer with more rows.
    fills = 1 if config.scheme in STRUCTURED else math.ceil(ENTRIES / layer.weight.numel())
    weight = layer.weight.detach().new_empty(fills * shape[0], *shape[1:])
    columns: dict[str, list[float]] = {
        n: [] for n in ("mean", "second_moment", "largest", "rms_formula", "bound_formula")
    }
    for nonlinearity in gains:
        scheme = "xavier_uniform" if config.scheme == LECTURE else config.scheme
        row = distribution(scheme, fans, nonlinearity)
        values = fill_weight_(weight, scheme, nonlinearity=nonlinearity, fans=fans).double()
        if config.scheme == LECTURE:
            values *= math.sqrt(3)  # sqrt(2) * gain * 3 / sqrt(n + m), against gain * sqrt(6 / (n + m))
        columns["mean"].append(values.mean().item())
        columns["second_moment"].append(values.square().mean().item())
        columns["largest"].append(values.abs().max().item())
        columns["rms_formula"].append(_rms_formula(row, weight))
        columns["bound_formula"].append(row.high)
    for name, numbers in {**columns, "entries": [float(weight.numel())] * len(gains)}.items():
        yield Measurement(name, "1", numbers, {"nonlinearity": gains})


def _rms_formula(row: Distribution, weight: torch.Tensor) -> float:
    """Root of the promised second moment of the entries: the variance for a mean of 0, the value's square else."""
    rows, columns = weight.shape[0], math.prod(weight.shape[1:])
    if row.kind == "constant":
        return abs(row.value)
    if row.kind == "orthogonal":
        # Orthonormal rows (or columns): the squares of the shorter side's unit vectors sum to its length.
        return row.std / math.sqrt(max(rows, columns))
    if row.kind == "dirac":
        return math.sqrt(min(weight.shape[:2]) / weight.numel())
    return row.std


def _histogram(config: Config, layer: Layer) -> Iterator[Emission]:
    fill_weight_(layer.weight, config.scheme, fans=layer_fans(layer))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    x = torch.randn(1, 784, device=layer.weight.device)
    with torch.no_grad():
        a = activation_function(config.activation)(layer(x))
    edges = np.histogram_bin_edges(torch.cat([x, a], dim=1).cpu().numpy(), bins=48)
    centers = ((edges[1:] + edges[:-1]) / 2).tolist()
    for name, values in (("input_count", x), ("output_count", a)):
        yield Measurement(name, "units", np.histogram(values.cpu().numpy(), edges)[0].tolist(), {"at": centers})


def _ratios(records: Sequence[Record]) -> pd.DataFrame:
    """One row per scheme, layer, nonlinearity, seed: measured over promised variance, and what belongs to it."""
    frame = tidy([r for r in records if r.config["part"] == "moments"])
    keys = ["scheme", "layer", "nonlinearity", "seed"]
    wide = frame.pivot(index=keys, columns="metric", values="value").reset_index()
    ratio = (wide["second_moment"] / wide["rms_formula"] ** 2).where(wide["rms_formula"] > 0)
    z = wide["mean"] / (wide["rms_formula"] / np.sqrt(wide["entries"]))
    drawn = ~wide["scheme"].isin(["zeros", "constant", *STRUCTURED])
    return wide.assign(
        ratio=ratio.fillna(wide["second_moment"].eq(0).astype(float)),  # zeros: nothing promised, nothing there
        bound_ratio=(wide["largest"] / wide["bound_formula"]).where(np.isfinite(wide["bound_formula"])),
        mean_z=z.where(drawn),
    )


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per scheme: measured over promised, over layers, gains and seeds."""
    rows = []
    for scheme, group in _ratios(records).groupby("scheme", sort=False):
        rows.append(
            {
                "scheme": scheme,
                "second moment / formula, mean": group["ratio"].mean(),
                "lowest": group["ratio"].min(),
                "highest": group["ratio"].max(),
                "largest weight / bound": group["bound_ratio"].max(),
                "largest z of the mean": group["mean_z"].abs().max(),
                "n": len(group),
            }
        )
    order = {scheme: i for i, scheme in enumerate((*SCHEMES, LECTURE))}
    return pd.DataFrame(rows).sort_values("scheme", key=lambda s: s.map(order), ignore_index=True)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Agreement, and the lecture's bound."""
    rows = table(records).set_index("scheme")
    others = rows.drop(index=LECTURE)
    yield Finding(
        f"Over {len(others)} schemes and {int(others['n'].sum())} cases the second moment of the weights lies between "
        f"{others['lowest'].min():.3f} and {others['highest'].max():.3f} times its formula; their mean is within "
        f"{others['largest z of the mean'].max():.1f} standard errors of 0.",
        "variance",
    )
    yield Finding(
        f"The lecture's Xavier uniform bound, sqrt(3) too wide, gives "
        f"{float(rows['second moment / formula, mean'][LECTURE]):.3f} times the variance.",
        "variance",
    )
    histograms = tidy([r for r in records if r.config["part"] == "histogram" and r.config["activation"] == "tanh"])
    outputs = histograms[histograms["metric"] == "output_count"]
    counts = outputs.assign(end=outputs["at"].abs() > 0.9).pivot_table("value", "scheme", "end", aggfunc="sum")
    shares = counts[True] / counts.sum(axis=1)
    yield Finding(
        "Share of the 256 tanh outputs that are saturated, beyond 0.9 in size: "
        + ", ".join(f"{scheme} {shares[scheme]:.0%}" for scheme in HISTOGRAM_SCHEMES)
        + ".",
        "histograms",
    )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Measured over promised variance by scheme, and the histograms."""
    return {"variance": _draw_ratios(records), "histograms": _draw_histograms(records)}


def _draw_ratios(records: Sequence[Record]) -> Figure:
    ratios = _ratios(records)
    schemes = [*SCHEMES, LECTURE]
    figure, axes = plots.panels(
        1, 1, title="Second moment of the drawn weights over its formula, for every scheme", height=5.4
    )
    for i, scheme in enumerate(schemes):
        values = ratios[ratios["scheme"] == scheme]["ratio"].to_numpy()
        color = plots.OUTCOME_STYLE["diverged"][0] if scheme == LECTURE else plots.CYCLE[0]
        offsets = np.linspace(-0.25, 0.25, len(values))
        axes.plot(values, i + offsets, ls="", marker=".", ms=4, color=color, alpha=0.6)
    axes.axvline(1, color=plots.INK, ls=(0, (4, 2)), lw=1.0)
    axes.set_xscale("log", base=3)
    plots.log_ticks(axes.xaxis, [0.9, 1, 1.1, 1.5, 2, 3])
    axes.set_yticks(range(len(schemes)), schemes)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    plots.label(axes, x="measured second moment / formula (a dot per layer, gain and seed)", y="")
    return figure


def _draw_histograms(records: Sequence[Record]) -> Figure:
    frame = tidy([r for r in records if r.config["part"] == "histogram"])
    figure, axes = plots.panels(
        len(HISTOGRAM_ACTIVATIONS),
        len(HISTOGRAM_SCHEMES),
        title="One layer 784-256 on standard normal inputs: what each initializer makes of the outputs",
        width=11.0,
        height=1.5,
    )
    for i, activation in enumerate(HISTOGRAM_ACTIVATIONS):
        for j, scheme in enumerate(HISTOGRAM_SCHEMES):
            panel = axes[i, j]
            cell = frame[(frame["activation"] == activation) & (frame["scheme"] == scheme)]
            for name, color in (("input_count", "#bbbbbb"), ("output_count", plots.CYCLE[0])):
                bars = cell[cell["metric"] == name]
                share = bars["value"] / bars["value"].sum()
                panel.bar(bars["at"], share, width=float(bars["at"].diff().median()), color=color, alpha=0.7)
            panel.set_ylim(0, 0.35)  # zeros and saturated units stand far above it
            panel.set_yticks([])
            panel.grid(False)
            panel.tick_params(labelsize=8)
            if i == 0:
                panel.set_title(scheme, fontsize=10)
            if j == 0:
                panel.set_ylabel(activation, fontsize=10)
    figure.supxlabel("value (grey: the 784 inputs; blue: the 256 outputs; share of units)", fontsize=9)
    return figure
