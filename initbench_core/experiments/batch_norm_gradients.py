"""Gradients with and without BatchNorm: at initialization, and after some training.

Question: what does batch normalization do to the gradients of a deep network, with the same weights?

The notebooks this grows from promise "the gradient distribution with and without BatchNorm for the same parameters" and
lost the figure; they state that BatchNorm "helps against unstable gradients" and that ELU's output is "around zero".
Their module called `self.bc1` for `self.bn1` and returned nothing. Both claims are measured here: `growth` sends a
random gradient back through wide networks at initialization, `training` looks at one network on digits at its start and
after some epochs, with and without BatchNorm from the same weights.

Expected: at initialization BatchNorm makes gradients grow toward the input by rho = E[phi'^2] / Var[phi] per layer in
the second moment: 1.467 for ReLU, a factor of 14,000 in norm over 50 layers, where He's weights alone give 1. So for
ReLU the claim is false at the start of training. For sigmoid it holds: without BatchNorm its gradients vanish by a
factor of 6 or 7 per layer, with it they grow by 1.034. rho is above 1 for every activation but the linear one. ELU's
mean is nearer zero than ReLU's (0.16 against 0.40), but not zero.
Source: Yang et al. 2019, "A Mean Field Theory of Batch Normalization"; the general law: `networks.theory`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from initbench_core.errors import check_choice
from initbench_core.networks import theory
from initbench_core.networks.activations import Activation
from initbench_core.networks.gains import exact_gain
from initbench_core.networks.initializers import initialize_layers_, scale_weights_
from initbench_core.networks.models import mlp
from initbench_core.presentation import plots
from initbench_core.presentation.curves import distribution_panels
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.statistics import Interval, interval
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Emission, Measurement, Record
from initbench_core.training.data import described
from initbench_core.training.evaluation import loss_of
from initbench_core.training.metrics import METRICS
from initbench_core.training.probing import layer_signals
from initbench_core.training.setting import Setting
from initbench_core.training.train import Recipe, train

GROWTH_ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "tanh", "elu", "selu", "sigmoid")
DATA = "digits5k"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Config:
    """One network."""

    part: str  # "growth" (random data and gradient) or "training"
    data: str  # what "training" trains on; "" for the random inputs of "growth"
    activation: str
    norm: str
    depth: int
    width: int
    batch: int
    epochs: int  # of training before the look; 13 steps each
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Growth for eight activations, with BatchNorm and without; training for ReLU and ELU."""
    depth, width = setting.pick(smoke=(6, 32), quick=(20, 512), full=(50, 1024))
    for seed in range(setting.seeds):
        for activation in GROWTH_ACTIVATIONS:
            for norm in ("before", "none"):
                yield Config("growth", "", activation, norm, depth, width, batch=width, epochs=0, seed=seed)
        for activation in ("relu", "elu"):
            for norm in ("before", "none"):
                for epochs in (0, setting.pick(smoke=1, quick=16, full=80)):
                    yield Config("training", DATA, activation, norm, 10, 100, batch=256, epochs=epochs, seed=seed)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Build the network, train it if asked, and look into it in training mode."""
    check_choice("part", config.part, ("growth", "training"))
    data = setting.data.load(config.data).to(setting.device) if config.data else None
    inputs, outputs = (784, 10) if data else (config.width, config.width)
    model = nn.Sequential(
        nn.Flatten(),
        *mlp(inputs, config.width, config.depth, outputs, activation=config.activation, norm=config.norm),
    ).to(setting.device)
    initialize_layers_(model, "kaiming_normal", nonlinearity="linear")
    scale_weights_(model, exact_gain(config.activation))
    layers = [m for m in model if isinstance(m, Activation)]
    if data is None:
        x = torch.randn(config.batch, config.width, device=setting.device)
        gradient = torch.randn(config.batch, config.width, device=setting.device)
    else:
        if config.epochs:
            recipe = Recipe(config.epochs, lr=0.01, momentum=0.9, batch_size=config.batch, target=0.9,
                            target_metric="validation_accuracy")  # fmt: skip
            yield from train(model, data, recipe, seed=config.seed, setting=setting)
        model.train()
        x, y = data.train.x[: config.batch], data.train.y[: config.batch]
        prediction = model(x)
        (gradient,) = torch.autograd.grad(loss_of(prediction, y), prediction)
    signals = layer_signals(model, layers, x, gradient)
    numbers = list(range(1, config.depth + 1))
    for kind, tensors in zip(("activation", "gradient"), signals, strict=True):
        for name in ("mean", "second_moment", "dead_fraction"):
            values = [float(METRICS[name].function(t.double())) for t in tensors]
            yield Measurement(f"{kind}_{name}", METRICS[name].unit, values, {"layer": numbers})
        if data is not None:
            spread = torch.stack(
                [t.flatten().double().quantile(torch.tensor(QUANTILES).double().to(t.device)) for t in tensors]
            )
            axes = {"layer": np.repeat(numbers, len(QUANTILES)).tolist(), "quantile": list(QUANTILES) * config.depth}
            yield Measurement(f"{kind}_quantile", "1", spread.flatten().tolist(), axes)


def growth(records: Sequence[Record]) -> pd.DataFrame:
    """Per activation and norm: geometric growth per layer of the gradient's second moment, beside theory.

    The layers next to input and output are left out: the law describes the bulk, where the statistics have settled.
    """
    frame = tidy([r for r in records if r.config["part"] == "growth"])
    frame = frame[frame["metric"] == "gradient_second_moment"]
    rows = []
    for (activation, norm), group in frame.groupby(["activation", "norm"], sort=False):
        wide = group.pivot(index="seed", columns="layer", values="value").to_numpy()
        first, last = wide.shape[1] // 4, wide.shape[1] - 2
        factors = (wide[:, first] / wide[:, last]) ** (1 / (last - first))
        predicted = _predicted(str(activation), str(norm), first, last)
        rows.append([activation, norm, *interval(factors, log=True), predicted, len(factors)])
    return pd.DataFrame(rows, columns=["activation", "BatchNorm", "growth per layer", "low", "high", "theory", "n"])


def trained_growth(records: Sequence[Record]) -> pd.Series:
    """The same factor, over all layers of the networks on images, by activation, epochs of training, norm and seed."""
    frame = tidy([r for r in records if r.config["part"] == "training"])
    frame = frame[frame["metric"] == "gradient_second_moment"]
    wide = frame.pivot(index=["activation", "epochs", "norm", "seed"], columns="layer", values="value")
    return (wide.iloc[:, 0] / wide.iloc[:, -1]) ** (1 / (wide.shape[1] - 1))


def _predicted(activation: str, norm: str, first: int, last: int) -> float:
    """Theory's growth per layer from activation `first` to `last`, counted from 0."""
    if norm == "before":
        return theory.batch_norm_gradient_growth(activation)
    factors = theory.plain_gradient_growth(last + 1, exact_gain(activation) ** 2, activation)
    return float(np.exp(np.log(factors[first + 1 :]).mean()))


def table(records: Sequence[Record]) -> pd.DataFrame:
    """Growth of the gradient's second moment per layer toward the input, with 95% interval over seeds."""
    return growth(records)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """ReLU's growth, the other activations, and ELU's mean."""
    rows = growth(records)
    normalized = rows[rows["BatchNorm"] == "before"].set_index("activation")
    plain = rows[rows["BatchNorm"] == "none"].set_index("activation")["growth per layer"]
    relu, sigmoid = normalized.loc["relu"], normalized.loc["sigmoid"]
    yield Finding(
        f"From each layer to the one before it the gradient's second moment is multiplied, at initialization, with "
        f"BatchNorm by {relu['growth per layer']:.3f} (theory {relu['theory']:.3f}) in a ReLU network and by "
        f"{sigmoid['growth per layer']:.3f} ({sigmoid['theory']:.3f}) in a sigmoid one; without it by "
        f"{float(plain['relu']):.3f} and {float(plain['sigmoid']):.3f}.",
        "growth",
    )
    off = [100 * (part["growth per layer"] / part["theory"] - 1).abs().max() for _, part in rows.groupby("BatchNorm")]
    yield (
        f"Over eight activations the growth with BatchNorm is within {off[0]:.1f}% of E[phi'^2] / Var[phi], between "
        f"{normalized['growth per layer'].min():.3f} and {normalized['growth per layer'].max():.3f}; without it within "
        f"{off[1]:.1f}% of mean-field theory, between {plain.min():.3f} and {plain.max():.3f}."
    )
    factors, parts = trained_growth(records), []
    seeds = len(factors.index.unique("seed"))
    for activation, epochs in itertools.product(("relu", "elu"), sorted(factors.index.unique("epochs"))):
        pair = [interval(factors[activation, epochs, norm], log=True) for norm in ("none", "before")]
        when = f"after {epochs} epochs" if epochs else "at the start"
        parts.append(f"{activation} {when} {pair[0]:.2f} and {pair[1]:.2f}")
    yield Finding(
        f"Growth of the gradient's second moment per layer toward the input, without BatchNorm and with it: "
        f"{'; '.join(parts)}; n = {seeds} seeds, of which the figure shows one.",
        "gradients",
    )
    frame = tidy([r for r in records if r.config["part"] == "training" and r.config["epochs"] == 0])
    start = frame[(frame["metric"] == "activation_mean") & (frame["norm"] == "before")]
    means = start.groupby("activation")["value"].mean()
    yield Finding(
        f"With BatchNorm, at the start, the mean of ELU's outputs is {means['elu']:.3f} and of ReLU's "
        f"{means['relu']:.3f}.",
        "activations",
    )


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """What BatchNorm does to gradients at initialization: harm for ReLU, a rescue for sigmoid."""
    for (activation, norm), (chapter, what) in {
        ("relu", "none"): ("initialization", "He's weights alone keep a deep ReLU network's gradient in scale"),
        ("sigmoid", "none"): ("initialization", "The gradient of a sigmoid network vanishes at the best gain too"),
        ("sigmoid", "before"): ("batch_norm_adds", "BatchNorm keeps a sigmoid network's gradient"),
        ("relu", "before"): ("batch_norm_does_not_help", "BatchNorm makes a deep ReLU network's gradient explode"),
    }.items():
        row = growth([r for r in records if (r.config["activation"], r.config["norm"]) == (activation, norm)]).iloc[0]
        measured = Interval(*row[["growth per layer", "low", "high"]])
        sentence = f"{what}: factor of its second moment per layer toward the input, at initialization"
        yield Claim(chapter, sentence, measured, int(row["n"]), float(row["theory"]), form=".3f")


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Growth by layer with theory; distributions at the start and after training."""
    return {
        "growth": _draw_growth(records),
        "gradients": _draw_distribution(records, "gradient"),
        "activations": _draw_distribution(records, "activation"),
    }


def _draw_growth(records: Sequence[Record]) -> Figure:
    frame = tidy([r for r in records if r.config["part"] == "growth"])
    frame = frame[frame["metric"] == "gradient_second_moment"]
    rows = growth(records)
    figure, axes = plots.panels(
        1, 2, title=f"Growth of the gradient toward the input at initialization, random data, {rows['n'].min()} seeds"
    )
    depth = int(frame["layer"].max())
    names = {"none": "no BatchNorm", "before": "BatchNorm"}
    for color, (norm, name) in zip(plots.CYCLE, names.items(), strict=False):
        chosen = frame[(frame["activation"] == "relu") & (frame["norm"] == norm)]
        relative = chosen.assign(value=chosen["value"] / chosen.groupby("seed")["value"].transform("last"))
        plots.band(axes[0], relative, "layer", name=name, log=True, color=color)
    layers = np.arange(1, depth + 1)
    rho = theory.batch_norm_gradient_growth("relu")
    plots.theory(axes[0], layers, rho ** (depth - layers), f"theory, {rho:.3f} per layer")
    axes[0].set_yscale("log")
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    plots.label(axes[0], x="layer", y="gradient's second moment / last layer's", title=f"ReLU, {depth} layers")
    axes[0].legend()
    normalized = rows[rows["BatchNorm"] == "before"].sort_values("theory")
    plain = rows[rows["BatchNorm"] == "none"].set_index("activation").loc[normalized["activation"]]
    at = np.arange(len(normalized))
    for color, part, name in zip(plots.CYCLE, (plain, normalized), names.values(), strict=False):
        spread = np.abs(np.stack([part["growth per layer"] - part["low"], part["high"] - part["growth per layer"]]))
        axes[1].errorbar(at, part["growth per layer"], yerr=spread, fmt="o", color=color, ms=5, capsize=3, label=name)
        axes[1].plot(at, part["theory"], ls="", marker="_", ms=18, mew=1.2, color=plots.INK)
    axes[1].plot([], [], ls="", marker="_", ms=12, mew=1.2, color=plots.INK, label="theory")
    axes[1].set_xticks(at, normalized["activation"], rotation=30)
    plots.level(axes[1], 1, "neither grows nor vanishes")
    plots.label(axes[1], x="", y="growth per layer, 95%", title="all activations")
    axes[1].legend(loc="center left", bbox_to_anchor=(0.05, 0.5))
    return figure


def _draw_distribution(records: Sequence[Record], kind: str) -> Figure:
    frame = tidy([r for r in records if r.config["part"] == "training" and r.config["seed"] == 0])
    title = f"{kind.capitalize()}s at each of 10 layers, from the same weights, on {described(DATA)}, 1 seed"
    return distribution_panels(frame, kind, title)
