"""Sigmoid networks with and without BatchNorm, and what a unit gets to see.

Question: what does batch normalization do for a network whose activations saturate, from good weights and bad ones?

Section 4.1 of Ioffe & Szegedy on digits: 784-100-100-100-10, batches of 60, SGD at 0.5, BatchNorm before the sigmoid or
none, from three initializations; the target is a validation accuracy of 85%, scored once an epoch. One network of each
kind is followed: the 15th, 50th and 85th percentile of the input to a unit of the last hidden layer over the validation
images after every epoch, and how far the medians of all its units wander.

Expected: with BatchNorm fewer steps to the target, and units whose input stays where it is. From N(0.01) the network
without it does not start.
Source: Ioffe & Szegedy 2015, section 4.1 and figure 1.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from initbench_core.networks.activations import Activation
from initbench_core.networks.models import mlp
from initbench_core.presentation import plots
from initbench_core.presentation.censored import restricted_mean, steps_ratio
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.signs import signs
from initbench_core.presentation.statistics import interval, spread, verdict, wilson
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import per_trial, tidy
from initbench_core.records.schema import Emission, Measurement, Record
from initbench_core.training.data import Data, described
from initbench_core.training.probing import look
from initbench_core.training.recipe import Recipe
from initbench_core.training.seeding import initialize_for_
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_cell
from initbench_core.training.train import train

INITS = ("normal(0.1)", "normal(0.01)", "xavier_normal")
NAMES = {"none": "no BatchNorm", "before": "BatchNorm"}
FOLLOWED = "normal(0.1)"
TARGET = 0.85
QUANTILES = (0.15, 0.5, 0.85)
UNIT = 50


@dataclass(frozen=True)
class Config:
    """One training."""

    data: str
    init: str
    norm: str  # BatchNorm: none, or before the sigmoid
    epochs: int
    followed: bool  # whether its units are looked at after every epoch
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Three initializers with and without BatchNorm; then one network of each kind to follow."""
    data, epochs = setting.data.images(), setting.pick(smoke=1, quick=10, full=50)
    for init in INITS:
        for norm in NAMES:
            for seed in range(setting.seeds):
                yield Config(data, init, norm, epochs, False, seed)
    for norm in NAMES:
        yield Config(data, FOLLOWED, norm, epochs, True, 0)


def prepare(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
    """Return the network with its weights, the images and the recipe."""
    model = nn.Sequential(nn.Flatten(), *mlp(784, 100, 3, 10, activation="sigmoid", norm=config.norm))
    initialize_for_(setting, model, config.init, seed=config.seed, nonlinearity="linear")
    recipe = Recipe(
        epochs=config.epochs,
        lr=0.5,
        batch_size=60,
        target=TARGET,
        target_metric="validation_accuracy",
        record_every=10,
        model_metrics=("update_ratio",),
    )
    return model, setting.data.load(config.data), recipe


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Train one network; follow its units if asked."""
    model, data, recipe = prepare(config, setting)
    yield from look([model], data, recipe, norm=config.norm)[0]
    if not config.followed:
        yield from train(model, data, recipe, seed=config.seed, setting=setting)
        return
    seen: list[torch.Tensor] = []

    def watch(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        # Each epoch ends with one evaluation on the validation images; what comes after the last is left out.
        if not layer.training:
            seen.append(torch.quantile(inputs[0].double(), torch.tensor(QUANTILES).to(inputs[0]).double(), dim=0).cpu())

    [layer for layer in model.children() if isinstance(layer, Activation)][-1].register_forward_pre_hook(watch)
    yield from train(model, data, recipe, seed=config.seed, setting=setting)
    by_epoch = torch.stack(seen[: config.epochs])  # [epochs, quantiles, units]
    epochs: list[int] = np.repeat(np.arange(1, len(by_epoch) + 1), len(QUANTILES)).tolist()
    quantiles = list(QUANTILES) * len(by_epoch)
    unit = by_epoch[:, :, UNIT].flatten().tolist()
    yield Measurement("unit_input", "1", unit, {"epoch": epochs, "quantile": quantiles})
    low, median, high = by_epoch.unbind(1)
    wander = (median.amax(0) - median.amin(0)) / (high - low).mean(0)
    yield Measurement("median_wander", "1", wander.tolist(), {"unit": list(range(len(wander)))})


def run_together(configs: Sequence[Config], setting: Setting) -> Sequence[Iterable[Emission]]:
    """Train all seeds of a cell at once; a followed network by itself."""
    if configs[0].followed:
        return [list(run(config, setting)) for config in configs]
    return train_cell(prepare, configs, setting, partial(look, norm=configs[0].norm))


def _arms(records: Sequence[Record]) -> dict[tuple[str, str], pd.DataFrame]:
    """The trials by initializer and norm, by seed."""
    frame = per_trial([r for r in records if not r.config["followed"]]).set_index("seed").sort_index()
    return {(i, n): frame[(frame["init"] == i) & (frame["norm"] == n)] for i in INITS for n in NAMES}


def _budget(records: Sequence[Record]) -> int:
    """Return the steps of a whole training: the last one that any trial recorded, to the 10."""
    frame = tidy(records)
    return int(frame[frame["metric"] == "train_loss"]["step"].max())


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per arm: fraction trained, steps, test accuracy, and what BatchNorm changes, paired."""
    arms, budget, rows = _arms(records), _budget(records), []
    seen = signs([r for r in records if not r.config["followed"]], "init", "norm")
    for (init, norm), cell in arms.items():
        row: dict[str, Any] = {"initializer": init, "BatchNorm": norm, "n": len(cell)}
        row |= {
            "trained (95% Wilson)": f"{wilson((cell['outcome'] == 'trained').sum(), len(cell)):.2f}",
            "steps to 85%": f"{restricted_mean(cell['steps_to_target'], budget):.0f}",
            "test accuracy": f"{interval(cell['test_accuracy']):.3f}",
        }
        if norm != "none":
            gain = cell["test_accuracy"] - arms[init, "none"]["test_accuracy"]
            row |= {"gain over none, paired": f"{interval(gain):+.3f}", "verdict": verdict(gain)}
        rows.append(row | seen[init, norm])
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Steps and accuracy from each initializer, and the wandering medians."""
    arms, budget, data = _arms(records), _budget(records), described(str(records[0].config["data"]))
    reached = {norm: pd.concat([arms[init, norm]["steps_to_target"] for init in INITS]) <= budget for norm in NAMES}
    counts = {norm: f"{trained.sum()} of {len(trained)}" for norm, trained in reached.items()}
    yield Finding(
        f"From {len(INITS)} initializers {counts['none']} sigmoid networks of 3 layers reach {TARGET:.0%} on {data} "
        f"within {budget} steps without BatchNorm, {counts['before']} with it.",
        "batch_norm",
    )
    parts = []
    for init in INITS:
        steps = [restricted_mean(arms[init, norm]["steps_to_target"], budget) for norm in NAMES]
        gain = arms[init, "before"]["test_accuracy"] - arms[init, "none"]["test_accuracy"]
        parts.append(
            f"from {init} {steps[0]:.0f} without BatchNorm, {steps[1]:.0f} with it, which changes the test accuracy by "
            f"{spread(gain, form='+.3f')}, {verdict(gain)}"
        )
    yield f"Steps of a 3-layer sigmoid network to {TARGET:.0%} on {data}: {'; '.join(parts)}."
    wander = {norm: spread(values, form=".2f") for norm, values in _wander(records).items()}
    yield Finding(
        f"Over {records[0].config['epochs']} epochs the median input of a unit of the last hidden layer wanders by "
        f"{wander['none']} times its 15% to 85% range without BatchNorm, by {wander['before']} with it (the units of "
        "one network each).",
        "batch_norm",
    )


def _wander(records: Sequence[Record]) -> dict[str, pd.Series]:
    frame = tidy([r for r in records if r.config["followed"]])
    frame = frame[frame["metric"] == "median_wander"]
    return {norm: frame[frame["norm"] == norm]["value"] for norm in NAMES}


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """What BatchNorm changes in steps, from each initializer."""
    arms, budget, data = _arms(records), _budget(records), described(str(records[0].config["data"]))
    for init in INITS:
        without, with_it = (arms[init, norm]["steps_to_target"] for norm in ("none", "before"))
        ratio = steps_ratio(without, with_it, budget)
        yield Claim(
            "batch_norm_adds" if ratio.is_above else "batch_norm_does_not_help",
            f"3 x 100 sigmoid units from {init} on {data}: times as many steps to {TARGET:.0%} without BatchNorm as "
            f"with it (budget {budget} steps)",
            ratio,
            len(without),
            "above 1: Ioffe & Szegedy 2015, figure 1",
            ".2f",
        )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Learning curves, and the input of a unit as it is trained."""
    frame, seeds = tidy([r for r in records if not r.config["followed"]]), len(_arms(records)[INITS[0], "none"])
    title = f"3 x 100 sigmoid: {described(str(records[0].config['data']))}, {seeds} seeds"
    figure, axes = plots.panels(1, 3, title=title, width=12.0, height=3.8)
    accuracy = frame[frame["metric"] == "validation_accuracy"]
    for color, init in zip(plots.CYCLE, INITS, strict=False):
        for norm, dashes in (("before", "-"), ("none", ":")):
            arm = accuracy[(accuracy["init"] == init) & (accuracy["norm"] == norm)]
            plots.band(axes[0], arm, "epoch", name=f"{init}, {NAMES[norm]}", color=color, ls=dashes)
    plots.label(axes[0], x="epoch", y="validation accuracy", title="learning")
    axes[0].set_ylim(0, 1)
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, fontsize=8)
    units = tidy([r for r in records if r.config["followed"]])
    for panel, (norm, name) in zip(axes[1:], NAMES.items(), strict=True):
        unit = units[(units["metric"] == "unit_input") & (units["norm"] == norm)]
        for quantile, line in unit.groupby("quantile"):
            panel.plot(line["epoch"], line["value"], color=plots.CYCLE[0], marker="o", ms=3)
            end = (line["epoch"].iloc[-1], line["value"].iloc[-1])
            panel.annotate(f"{quantile:.0%}", end, (5, 0), textcoords="offset points", va="center", fontsize=9)
        plots.label(panel, x="epoch", y="input to the sigmoid", title=f"a unit of the last layer, {name}")
    limits = [units[units["metric"] == "unit_input"]["value"].agg(end) for end in ("min", "max")]
    for panel in axes[1:]:
        panel.set_ylim(min(limits[0], -1) - 0.5, max(limits[1], 1) + 0.5)
    return {"batch_norm": figure}
