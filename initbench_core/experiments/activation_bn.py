"""Where BatchNorm stands, and which activation it stands beside.

Question: does batch normalization belong before or after the activation, and does the answer depend on the activation?

An MLP of 8 hidden layers of 100 units on digits, every activation with weights of its own exact forward gain, so that
the arms without BatchNorm are as good as a scale can make them; one recipe for all: SGD at 0.01 with momentum 0.9,
batches of 128. The budget is short on purpose: it measures speed. The same seed gives every arm the same random numbers
and batches. The target is a validation accuracy of 85%. Every network is looked at as it starts, as in `plain_depth`.

The nearest published table is caffenet128's: one run of each arm, on ImageNet at 128 pixels, of a CNN. It is another
scale and another network: an order to compare with, not digits.

Expected: caffenet128 has BatchNorm after the ReLU above BatchNorm before it, above none, and behind it ReLU and ELU
about equal and sigmoid lower. Without BatchNorm a sigmoid network of this depth does not start: its gradients vanish.
Source: Ioffe & Szegedy 2015; Mishkin et al. 2017, "Systematic evaluation of CNN advances on the ImageNet".
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from initbench_core.networks.gains import exact_gain
from initbench_core.networks.initializers import scale_weights_
from initbench_core.networks.models import NORM_PLACES, mlp
from initbench_core.presentation import plots
from initbench_core.presentation.censored import restricted_mean
from initbench_core.presentation.curves import loss_panels
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.statistics import interval, separates, spread, wilson
from initbench_core.presentation.story import Claim, do_train
from initbench_core.records.frame import per_trial, tidy
from initbench_core.records.schema import Emission, Record
from initbench_core.training.data import Data, described
from initbench_core.training.probing import look
from initbench_core.training.recipe import Recipe
from initbench_core.training.seeding import initialize_for_
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_cell
from initbench_core.training.train import train

ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid")
TARGET = 0.85
BATCH = 128
# Top-1 accuracies, one run each; BatchNorm with its scale and shift where both are published.
CAFFENET128 = {
    ("relu", "none"): 0.471,
    ("relu", "before"): 0.478,
    ("relu", "after"): 0.499,
    ("elu", "after"): 0.498,
    ("sigmoid", "after"): 0.475,
}
PLACES = {"none": "no BatchNorm"} | {p: f"BatchNorm {p} the activation" for p in ("before", "after")}


@dataclass(frozen=True)
class Config:
    """One training."""

    data: str
    activation: str
    norm: str  # place of BatchNorm: none, before or after the activation
    depth: int
    epochs: int
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Six activations with BatchNorm in three places."""
    depth, epochs = setting.pick(smoke=(3, 1), quick=(8, 5), full=(8, 20))
    for activation in ACTIVATIONS:
        for norm in NORM_PLACES:
            for seed in range(setting.seeds):
                yield Config(setting.data.images(), activation, norm, depth, epochs, seed)


def prepare(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
    """Return the network with its weights, the digits and the recipe."""
    layers = mlp(784, 100, config.depth, 10, activation=config.activation, norm=config.norm)
    model = nn.Sequential(nn.Flatten(), *layers)
    initialize_for_(setting, model, "lecun_normal", seed=config.seed)
    scale_weights_(model, exact_gain(config.activation))
    recipe = Recipe(config.epochs, lr=0.01, momentum=0.9, batch_size=BATCH, target=TARGET, record_every=5,
                    target_metric="validation_accuracy", model_metrics=("update_ratio",))  # fmt: skip
    return model, setting.data.load(config.data), recipe


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Look at one network, then train it."""
    model, data, recipe = prepare(config, setting)
    yield from look([model], data, recipe, norm=config.norm)[0]
    yield from train(model, data, recipe, seed=config.seed, setting=setting)


def run_together(configs: Sequence[Config], setting: Setting) -> Sequence[Iterable[Emission]]:
    """Look at each network of an arm, then train all of them at once."""
    return train_cell(prepare, configs, setting, partial(look, norm=configs[0].norm))


def _where(frame: pd.DataFrame) -> str:
    """Say on what data, how deep and how long."""
    first = frame.iloc[0]
    return f"{described(first['data'])}, {first['depth']} hidden layers, {first['epochs']} epochs"


def _cell(frame: pd.DataFrame, activation: str, norm: str) -> pd.DataFrame:
    """The trials of an arm, by seed."""
    cell = frame[(frame["activation"] == activation) & (frame["norm"] == norm)]
    return cell.set_index("seed").sort_index()


def _gain(frame: pd.DataFrame, activation: str, norm: str, over: str = "none") -> np.ndarray:
    """What one place of BatchNorm gives over another in test accuracy, by seed; nan where either diverged."""
    accuracy = [_cell(frame, activation, place)["test_accuracy"] for place in (norm, over)]
    return np.asarray(accuracy[0] - accuracy[1], dtype=float)


def _budget(records: Sequence[Record]) -> int:
    """Return the steps of a training that ran to its end: the last one that any trial recorded."""
    frame = tidy(records)
    return int(frame[frame["metric"] == "train_loss"]["step"].max())


def _geometric(arm: pd.DataFrame, metric: str) -> float:
    """The geometric mean of a metric over all steps and seeds of an arm; nan where nothing is recorded."""
    return interval(arm[arm["metric"] == metric]["value"], log=True).center


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per arm: its start, fraction trained, accuracy, steps to the target, and what BatchNorm gave, paired."""
    frame, numbers, budget, rows = per_trial(records), tidy(records), _budget(records), []
    for activation in ACTIVATIONS:
        for norm in NORM_PLACES:
            cell, gain = _cell(frame, activation, norm), interval(_gain(frame, activation, norm))
            arm = numbers[(numbers["activation"] == activation) & (numbers["norm"] == norm)]
            backward = _geometric(arm, "backward_factor")
            rows.append(
                {
                    "activation": activation,
                    "BatchNorm": norm,
                    "n": len(cell),
                    "saturated at the start (fraction)": arm[arm["metric"] == "saturated_fraction"]["value"].mean(),
                    "backward factor": backward,
                    "backward, theory": backward / _geometric(arm, "backward_factor_ratio"),
                    "update / weight": _geometric(arm, "update_ratio"),
                    "MiB a step": _geometric(arm, "step_memory"),
                    "trained (95% Wilson)": f"{wilson((cell['outcome'] == 'trained').sum(), len(cell)):.2f}",
                    "test accuracy": f"{interval(cell['test_accuracy']):.3f}",
                    "steps to 85%": f"{restricted_mean(cell['steps_to_target'], budget):.0f}",
                    "gain over none": gain.center if norm != "none" else np.nan,
                    "decided": "-" if norm == "none" else "yes" if separates(gain, 0) else "no",
                    "caffenet128, published": CAFFENET128.get((activation, norm), np.nan),
                }
            )
    return pd.DataFrame(rows)


def _verdicts(frame: pd.DataFrame, norm: str, over: str) -> str:
    """Sort the activations by what the interval of the paired difference says."""
    parts: dict[str, list[str]] = {"higher": [], "lower": [], "not decided": []}
    for activation in ACTIVATIONS:
        gain = interval(_gain(frame, activation, norm, over))
        parts["higher" if gain.low > 0 else "lower" if gain.high < 0 else "not decided"].append(activation)
    return "; ".join(f"{answer} for {', '.join(names)}" for answer, names in parts.items() if names)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Place, activation, and the published order beside the measured one."""
    frame = per_trial(records)
    sigmoid = {norm: _cell(frame, "sigmoid", norm) for norm in NORM_PLACES}
    reached = {norm: f"{(c['outcome'] == 'trained').sum()} of {len(c)}" for norm, c in sigmoid.items()}
    arms = f"{reached['none']} reach {TARGET:.0%} without BatchNorm, {reached['before']} with it before the activation"
    yield Finding(f"Sigmoid on {_where(frame)}: {arms}, {reached['after']} after it.", "curves")
    told = [f"{place} the activation: {_verdicts(frame, place, 'none')}" for place in ("before", "after")]
    yield Finding(f"Test accuracy against no BatchNorm, paired, with it {'. With it '.join(told)}.", "places")
    yield (
        f"BatchNorm after the activation against before it, paired: {_verdicts(frame, 'after', 'before')}. "
        f"For ReLU the difference is {spread(_gain(frame, 'relu', 'after', 'before'), form='+.3f')}; caffenet128 has "
        f"{CAFFENET128['relu', 'after'] - CAFFENET128['relu', 'before']:+.3f} (one run each, ImageNet)."
    )
    published = {a: accuracy for (a, norm), accuracy in CAFFENET128.items() if norm == "after"}
    means = {a: _cell(frame, a, "after")["test_accuracy"].mean() for a in published}
    orders = [sorted(found.items(), key=lambda pair: -np.nan_to_num(pair[1], nan=-1)) for found in (means, published)]
    measured, theirs = (", ".join(f"{a} {accuracy:.3f}" for a, accuracy in order) for order in orders)
    yield f"With BatchNorm after the activation the measured order is {measured}; caffenet128 published {theirs}."


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """What BatchNorm does for a sigmoid, and its smallest gain."""
    frame, where, trained = per_trial(records), _where(per_trial(records)), {}
    for norm in ("none", "after"):
        cell = _cell(frame, "sigmoid", norm)
        trained[norm] = wilson((cell["outcome"] == "trained").sum(), len(cell))
        helps = trained[norm].low > trained["none"].high
        yield Claim(
            "initialization" if norm == "none" else "batch_norm_adds" if helps else "batch_norm_does_not_help",
            f"Sigmoids with {PLACES[norm]} {do_train(trained[norm])} on {where}: fraction of seeds at {TARGET:.0%}",
            trained[norm],
            len(cell),
            "Ioffe & Szegedy 2015: sigmoid networks train with BatchNorm" if norm == "after" else None,
            ".2f",
        )
    gains = {a: interval(_gain(frame, a, "before")) for a in ACTIVATIONS}
    least, found = min(gains.items(), key=lambda pair: np.nan_to_num(pair[1].center, nan=np.inf))
    yield Claim(
        "batch_norm_adds" if found.low > 0 else "batch_norm_does_not_help",
        f"BatchNorm gives least to {least}, of {len(ACTIVATIONS)} activations, on {where}: test accuracy with it "
        "before the activation minus without, paired",
        found,
        frame["seed"].nunique(),
        form="+.3f",
    )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Error and speed by activation and place, beside the published table; learning curves."""
    title = f"Training loss: {_where(per_trial(records))}, {len({r.config['seed'] for r in records})} seeds"
    return {"places": _draw_places(records), "curves": loss_panels(tidy(records), "activation", "norm", PLACES, title)}


def _draw_places(records: Sequence[Record]) -> Figure:
    frame, budget = per_trial(records), _budget(records)
    title = f"Place of BatchNorm by activation: {_where(frame)}, {frame['seed'].nunique()} seeds"
    figure, axes = plots.panels(1, 3, title=title, width=12.0, height=4.0, width_ratios=(3, 3, 1.6))
    names = [a for (a, place) in CAFFENET128 if place == "after"]
    for i, (color, norm) in enumerate(zip(plots.CYCLE, NORM_PLACES, strict=False)):
        cells = [_cell(frame, a, norm) for a in ACTIVATIONS]
        look: dict[str, Any] = {"name": PLACES[norm], "color": color, "marker": "os^"[i]}
        shifted = np.arange(len(cells)) + 0.22 * (i - 1)
        plots.points(axes[0], shifted, [interval(1 - c["test_accuracy"]) for c in cells], **look)
        steps = [restricted_mean(c["steps_to_target"], budget) for c in cells]
        plots.points(axes[1], shifted, steps, hollow=[s.reached < s.n for s in steps], **look)
        published = [(a, 1 - v) for (a, place), v in CAFFENET128.items() if place == norm]
        places = [names.index(a) + 0.22 * (i - 1) for a, _ in published]
        plots.points(axes[2], places, [(v, np.nan, np.nan) for _, v in published], **look)
    axes[0].set_yscale("log")
    plots.log_ticks(axes[0].yaxis, (0.05, 0.07, 0.1, 0.2, 0.5, 1.0))
    axes[1].set_ylim(0, 1.08 * budget)
    plots.level(axes[1], budget, "budget (hollow: not all seeds got there)")
    for panel, ticks in zip(axes, (ACTIVATIONS, ACTIVATIONS, names), strict=True):
        panel.set_xticks(range(len(ticks)), ticks, rotation=30)
        panel.set_xlim(-0.5, len(ticks) - 0.5)
    plots.label(axes[0], x="", y="test error (fraction), 95%", title="test error: lower is better")
    plots.label(axes[1], x="", y=f"steps to {TARGET:.0%}, 95%", title="steps to the target (scored once an epoch)")
    plots.label(axes[2], x="", y="top-1 error (fraction)", title="published: caffenet128,\nImageNet, one run each")
    axes[0].legend(loc="upper left")
    return figure
