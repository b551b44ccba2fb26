"""Signal propagation: forward and backward variance in 50 ReLU layers.

Question: for which variance of the weights do activations and gradients keep their scale?

Prince's figure 7.4: 50 hidden layers of 100 units, a standard normal input of 100 numbers, one output with target 0 and
a least-squares loss, zero biases, weights of variance 0.001, 0.01, 0.02, 0.1 and 1. The lecture that quotes it writes
the law as D s^2 Var(h); it needs the second moment E[h^2], since a ReLU's output does not have mean zero (Var relu(z) =
0.341, E relu(z)^2 = 0.5). The figure cannot be made in float32: at variance 1 the activations leave its range near
layer 45 and their squares near layer 22. Here it is float64.

Expected: a factor of D s^2 / 2 = 0.05, 0.5, 1, 5, 50 per layer, forward and backward. The geometric mean over networks
lies slightly below (0.975 at He's variance for width 100), because E log < log E.
Source: Prince 2023, "Understanding Deep Learning", section 7.5; He et al. 2015.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from initbench_core.networks.theory import he_log_law, relu_growth
from initbench_core.presentation import plots
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.statistics import Interval, interval
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Emission, Measurement, Record
from initbench_core.training.setting import Setting

VARIANCES = (0.001, 0.01, 0.02, 0.1, 1.0)


@dataclass(frozen=True)
class Config:
    """Many networks at one variance."""

    variance: float
    draws: int
    layers: int = 50
    width: int = 100
    seed: int = 0


def grid(setting: Setting) -> Iterator[Config]:
    """Every variance; the same seed, so the five curves are rescalings of the same networks."""
    for variance in VARIANCES:
        yield Config(variance, draws=setting.pick(smoke=3, quick=40, full=200))


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Propagate one input per network forward and its loss backward, all networks at once."""
    shape = (config.draws, config.width, config.width)
    std = math.sqrt(config.variance)
    h = torch.randn(config.draws, config.width, 1, dtype=torch.float64).to(setting.device)
    pre_activations = []
    for _ in range(config.layers):
        weights = torch.randn(shape, dtype=torch.float64).to(setting.device) * std
        f = (weights @ h).requires_grad_()
        pre_activations.append(f)
        h = torch.relu(f)
    output = (torch.randn(config.draws, 1, config.width, dtype=torch.float64).to(setting.device) * std) @ h
    gradients = torch.autograd.grad(output.square().sum(), pre_activations)
    axes = {
        "layer": np.tile(np.arange(1, config.layers + 1), config.draws).tolist(),
        "draw": np.repeat(np.arange(config.draws), config.layers).tolist(),
    }
    for name, tensors in (("activation_variance", pre_activations), ("gradient_variance", gradients)):
        values = torch.stack([t.detach().squeeze(2).var(dim=1) for t in tensors], dim=1)
        yield Measurement(name, "1", values.flatten().tolist(), axes)


def per_layer_factor(frame: pd.DataFrame, metric: str, variance: float) -> Interval:
    """Return the geometric factor per layer (center, 95% low, high over networks), in the signal's direction."""
    chosen = frame[(frame["metric"] == metric) & (frame["variance"] == variance)]
    wide = chosen.pivot(index="draw", columns="layer", values="value")
    growth = (wide.iloc[:, -1] / wide.iloc[:, 0]).to_numpy() ** (1 / (wide.shape[1] - 1))
    return interval(growth if metric == "activation_variance" else 1 / growth, log=True)


def _drift() -> float:
    """Return by what the factor's geometric mean over networks of width 100 is less than its mean, He's law."""
    return math.exp(he_log_law(100)[0])


def _predicted(variance: float) -> float:
    """Return theory's factor per layer as `per_layer_factor` measures it, geometric over networks."""
    return _drift() * relu_growth(100, variance)


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per variance: measured factors per layer beside theory, and the ends of the network."""
    frame = tidy(records)
    rows = []
    for variance in VARIANCES:
        row: dict[str, object] = {"variance": variance, "theory D s^2/2": relu_growth(100, variance)}
        for name, metric in (("forward", "activation_variance"), ("backward", "gradient_variance")):
            center, low, high = per_layer_factor(frame, metric, variance)
            row |= {f"{name} factor": center, f"{name} 95%": f"{low:.4g} to {high:.4g}"}
        rows.append(row)
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Factors beside theory."""
    frame = tidy(records)
    factors = [per_layer_factor(frame, "activation_variance", v)[0] for v in VARIANCES]
    theory = [_predicted(v) for v in VARIANCES]
    yield Finding(
        f"Per layer the variance of the activations is multiplied by {', '.join(f'{f:.3g}' for f in factors)}; theory "
        f"for width 100 says {', '.join(f'{t:.3g}' for t in theory)} (D s^2 / 2 times {_drift():.3f}, its drift).",
        "variance",
    )
    backward = per_layer_factor(frame, "gradient_variance", 0.02)
    yield Finding(
        f"Backward the factor at He's variance 0.02 is {backward:.3f}, theory's {_predicted(0.02):.3f}.", "variance"
    )


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """The scale of the weights is what keeps, kills or blows up a signal, by theory's factor per layer."""
    frame = tidy(records)
    for variance, what in ((0.01, "half of He's loses"), (0.02, "He's keeps"), (0.1, "five times He's blows up")):
        factor = per_layer_factor(frame, "activation_variance", variance)
        sentence = (
            f"A weight variance of {what} the signal of 50 ReLU layers of width 100: factor of its variance per layer, "
            f"geometric over networks (for infinite width {relu_growth(100, variance):g})"
        )
        networks = frame["draw"].nunique()
        yield Claim("initialization", sentence, factor, networks, _predicted(variance), form=".3f")


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Prince's two panels with theory drawn in."""
    frame = tidy(records)
    draws = frame["draw"].nunique()
    figure, axes = plots.panels(
        1, 2, title="Variance of activations and gradients in 50 layers of 100 ReLU units, random data", height=4.0
    )
    for panel, metric, title, ticks in (
        (axes[0], "activation_variance", "forward: pre-activations", [1e-80, 1e-40, 1, 1e40, 1e80]),
        (axes[1], "gradient_variance", "backward: gradients", [1e-160, 1e-80, 1, 1e80, 1e160]),
    ):
        for color, variance in zip(plots.CYCLE, VARIANCES, strict=False):
            chosen = frame[(frame["metric"] == metric) & (frame["variance"] == variance)]
            plots.band(panel, chosen, "layer", name=f"{variance:g}", log=True, color=color)
            center = chosen[chosen["layer"] == (1 if metric == "activation_variance" else 50)]["value"]
            start, _, _ = interval(center.to_numpy(), log=True)
            layers = np.arange(1, 51)
            away = layers - 1 if metric == "activation_variance" else 50 - layers
            plots.theory(panel, layers, start * _predicted(variance) ** away, name="")
        panel.set(yscale="log", yticks=ticks)
        plots.label(panel, x="layer", y="variance", title=title)
    axes[1].plot([], [], color=plots.INK, ls=(0, (4, 2)), lw=1.2, label="theory")
    axes[1].legend(title=f"variance of weights\n({draws} networks each)", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return {"variance": figure}
