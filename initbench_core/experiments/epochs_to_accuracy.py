"""Epochs until a deep network starts to learn, by its depth and the variance of its weights.

Question: how far from He's variance may initial weights be before a deep ReLU network does not start to learn?

Hanin & Rolnick's figure 1, on digits: networks as wide as they are deep, so that the spread of the output's length over
random networks stays bounded (the sum of the layers' reciprocal widths is 1); beside each other the length of the
output at initialization and the epochs until a fifth of unseen digits are named right (theirs: 60,000 images, five
runs; here the validation split is scored once an epoch). SGD at 0.01 with momentum 0.9, batches of 128, biases 0. A
run that does not get there counts as the budget, and is drawn hollow: it is a bound.

The arms are multiples of He's variance 2 / fan_in: Glorot's is half of it in a square layer; He's normal cut off at two
standard deviations without a correction, as some libraries do it, has 0.774 of it; He's normal and uniform; twice it.

Expected: per layer the squared length is multiplied by that factor on average, and by less in the geometric mean over
networks: narrow ones drift down. At half of He's variance, networks do not start from depth
20 on; at 0.774 they need more epochs the deeper they are; normal and uniform start at once at any depth; at twice it
they diverge once they are deep.
Source: Hanin & Rolnick 2018, "How to Start Training: The Effect of Initialization and Architecture", figure 1.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from initbench_core.errors import choose
from initbench_core.networks.initializers import scale_weights_
from initbench_core.networks.models import mlp
from initbench_core.networks.theory import he_log_law, truncated_normal_variance
from initbench_core.presentation import plots
from initbench_core.presentation.censored import restricted_mean, steps_ratio
from initbench_core.presentation.curves import survival_curves, theory_in_legend
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.signs import signs
from initbench_core.presentation.statistics import interval, wilson
from initbench_core.presentation.story import Claim, do_train
from initbench_core.records.frame import per_trial
from initbench_core.records.schema import Emission, Measurement, Record, scalar
from initbench_core.training.data import Data, described
from initbench_core.training.probing import look
from initbench_core.training.recipe import Recipe
from initbench_core.training.seeding import initialize_for_
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_cell
from initbench_core.training.train import train

TARGET = 0.2
TRUNCATED = truncated_normal_variance(2)
# The scheme, and the variance in a square layer as a multiple of He's.
INITS = {
    "Glorot (x 0.5)": ("xavier_normal", 0.5),
    "He truncated (x 0.774)": ("kaiming_truncated_normal", TRUNCATED),
    "He normal": ("kaiming_normal", 1.0),
    "He uniform": ("kaiming_uniform", 1.0),
    "He doubled (x 2)": ("kaiming_normal", 2.0),
}
REFERENCE = "He normal"


@dataclass(frozen=True)
class Config:
    """One training."""

    data: str
    init: str  # a key of INITS
    depth: int  # hidden layers, and units in each
    epochs: int  # the budget
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Every variance at every depth."""
    depths = setting.pick(smoke=(5, 10), quick=(10, 20, 30, 40), full=tuple(range(10, 101, 10)))
    epochs = setting.pick(smoke=2, quick=12, full=50)
    for depth in depths:
        for init in INITS:
            for seed in range(setting.seeds):
                yield Config(setting.data.images(), init, depth, epochs, seed)


def prepare(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
    """Return the network with its weights, the digits and the recipe."""
    scheme, multiple = choose("initializer", config.init, INITS)
    model = nn.Sequential(nn.Flatten(), *mlp(784, config.depth, config.depth, 10))
    nonlinearity = "linear" if scheme == "xavier_normal" else "relu"
    initialize_for_(setting, model, scheme, seed=config.seed, nonlinearity=nonlinearity)
    if scheme != "xavier_normal":
        scale_weights_(model, multiple**0.5)
    recipe = Recipe(config.epochs, lr=0.01, momentum=0.9, batch_size=128, target=TARGET, stop_at_target=True,
                    target_metric="validation_accuracy", record_every=25, model_metrics=("update_ratio",))  # fmt: skip
    return model, setting.data.load(config.data), recipe


def _look(models: Sequence[nn.Module], data: Data, recipe: Recipe) -> list[list[Measurement]]:
    """Look at the networks; lengths grow as the mean squared pre-activation from the first to the last hidden layer."""
    looks = look(models, data, recipe, norm="none")
    for found in looks:
        (moments,) = (m.values for m in found if m.metric == "second_moment")
        found.append(scalar("length_growth", "1", moments[-1] / moments[0]))
    return looks


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Look at one network, then train it."""
    model, data, recipe = prepare(config, setting)
    yield from _look([model], data, recipe)[0]
    yield from train(model, data, recipe, seed=config.seed, setting=setting)


def run_together(configs: Sequence[Config], setting: Setting) -> Sequence[Iterable[Emission]]:
    """Look at all seeds of a cell, then train them at once."""
    return train_cell(prepare, configs, setting, _look)


def _cells(records: Sequence[Record]) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """The trials by depth and initializer, sorted by seed."""
    frame = per_trial(records)
    for depth in sorted(int(depth) for depth in frame["depth"].unique()):
        for init in INITS:
            yield depth, init, frame[(frame["depth"] == depth) & (frame["init"] == init)].sort_values("seed")


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per depth and initializer: length beside theory, epochs, and whether they differ from He's normal."""
    cells, rows, seen = list(_cells(records)), [], signs(records, "depth", "init")
    budget = _last(records)["epochs"]
    for depth, init, cell in cells:
        (theirs,) = (c["epochs_to_target"] for d, i, c in cells if (d, i) == (depth, REFERENCE))
        ratio = steps_ratio(cell["epochs_to_target"], theirs, budget)
        growth = interval(cell["length_growth"], log=True)
        rows.append(
            {
                "depth = width": depth,
                "initializer": init,
                "n": len(cell),
                "length growth": growth.center,
                "theory": _theory(init, depth),
                "outcomes": ", ".join(sorted(set(cell["outcome"]))),
                "reached 20% (95% Wilson)": f"{wilson(_reached(cell), len(cell)):.2f}",
                "epochs": f"{restricted_mean(cell['epochs_to_target'], budget):.1f}",
                "times He normal's": "-" if init == REFERENCE else f"{ratio:.3g}",
                "separated from it": "-" if init == REFERENCE else ratio.separated,
            }
            | seen[depth, init]
        )
    return pd.DataFrame(rows)


def _theory(init: str, depth: int) -> float:
    """Return the geometric mean over networks of the length's growth, for one input at this width."""
    return math.exp((depth - 1) * (math.log(INITS[init][1]) + he_log_law(depth)[0]))


def _reached(cell: pd.DataFrame) -> int:
    return int(np.isfinite(cell["epochs_to_target"]).sum())


def _last(records: Sequence[Record]) -> dict[str, Any]:
    """Return the configuration of the last trial, which is one of the deepest."""
    return dict(records[-1].config)


def _deepest(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """The trials of the deepest networks by initializer."""
    cells = list(_cells(records))
    return {init: cell for depth, init, cell in cells if depth == cells[-1][0]}


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Epochs at the greatest depth, the length per layer, and what is not told apart."""
    cells, config = _deepest(records), _last(records)
    epochs = {init: restricted_mean(cell["epochs_to_target"], config["epochs"]) for init, cell in cells.items()}
    starts = ", ".join(f"{init} {found.reached}" for init, found in epochs.items())
    there = f"at depth = width = {config['depth']} within {config['epochs']} epochs"
    yield Finding(
        f"Seeds of {epochs[REFERENCE].n} that reach {TARGET:.0%} on {described(config['data'])} {there}: {starts}.",
        "epochs",
    )
    yield (
        f"Epochs to {TARGET:.0%} on {described(config['data'])} at depth = width = {config['depth']}: "
        + "; ".join(f"{init} {found:.1f}" for init, found in epochs.items())
        + "."
    )
    layers = config["depth"] - 1
    factors = {i: interval(cell["length_growth"] ** (1 / layers), log=True).center for i, cell in cells.items()}
    yield (
        f"Per layer the mean squared length is multiplied at the start by "
        f"{', '.join(f'{factor:.3f}' for factor in factors.values())}; theory says "
        f"{', '.join(f'{_theory(init, layers + 1) ** (1 / layers):.3f}' for init in INITS)} (geometric means over "
        f"networks of this width; the factor of the mean is {', '.join(f'{m:.3g}' for _, m in INITS.values())})."
    )
    rows = table(records)
    open_ = rows[rows["separated from it"].isin(["no", "no interval"])]
    names = ", ".join(f"{row['initializer']} at {row['depth = width']}" for _, row in open_.iterrows())
    yield f"Not separated from {REFERENCE} in epochs by these seeds: {names or 'none'}."


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """Whether the deepest networks start, and what the forgotten correction costs."""
    cells, config = _deepest(records), _last(records)
    where = f"at depth = width = {config['depth']} on {described(config['data'])}"
    for init in ("Glorot (x 0.5)", REFERENCE):
        trained = wilson(_reached(cells[init]), len(cells[init]))
        yield Claim(
            "initialization",
            f"{init} weights {do_train(trained)} {where}: fraction of seeds that reach {TARGET:.0%} within "
            f"{config['epochs']} epochs",
            trained,
            len(cells[init]),
            f"squared length x {_theory(init, config['depth']):.2g} over the hidden layers",
            ".2f",
        )
    truncated, whole = (cells[i]["epochs_to_target"] for i in ("He truncated (x 0.774)", REFERENCE))
    yield Claim(
        "initialization",
        f"He truncated without correction against He {where}: times as many epochs to {TARGET:.0%}",
        steps_ratio(truncated, whole, config["epochs"]),
        len(whole),
        "more: Hanin & Rolnick 2018, figure 1",
        ".2f",
    )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Hanin & Rolnick's two panels, and the runs still short of the target at the greatest depth."""
    config, seeds = _last(records), len({r.config["seed"] for r in records})
    figure, axes = plots.panels(
        1, 3, title=f"When deep networks start to learn, by variance: {described(config['data'])}, {seeds} seeds",
        width=13.0, height=4.2,
    )  # fmt: skip
    cells, budget = list(_cells(records)), config["epochs"]
    for i, init in enumerate(INITS):
        look: dict[str, Any] = {"name": init, "color": plots.CYCLE[i], "marker": "os^Dv"[i]}
        depths = [depth for depth, name, _ in cells if name == init]
        growth = [interval(cell["length_growth"], log=True) for _, name, cell in cells if name == init]
        epochs = [restricted_mean(cell["epochs_to_target"], budget) for _, name, cell in cells if name == init]
        shifted = np.array(depths) + 0.5 * (i - 2)
        plots.points(axes[0], shifted, growth, **look)
        plots.theory(axes[0], depths, [_theory(init, depth) for depth in depths], "", color=plots.CYCLE[i])
        plots.points(axes[1], shifted, epochs, hollow=[e.reached < e.n for e in epochs], **look)
        axes[1].plot(shifted, [e.center for e in epochs], color=plots.CYCLE[i], lw=1.0)
    axes[0].set_yscale("log")
    axes[1].set_ylim(0, 1.12 * budget)
    plots.level(axes[1], budget, "budget (hollow: not all seeds got there)")
    plots.label(axes[0], x="depth = width", y="growth of the mean squared length", title="at initialization")
    plots.label(axes[1], x="depth = width", y="epochs, restricted mean", title=f"epochs to {TARGET:.0%}")
    survival_curves(axes[2], {i: c["epochs_to_target"] for i, c in _deepest(records).items()}, budget, unit="epochs")
    axes[2].set(title=f"depth = width = {config['depth']}", ylabel="fraction of seeds still short")
    theory_in_legend(axes[2], "theory, at the left")
    axes[2].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return {"epochs": figure}
