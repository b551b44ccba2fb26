"""Residual networks of 10 to 100 blocks: none, BatchNorm, Fixup, SkipInit.

Question: which ways to start a residual network train at depth, and is BatchNorm needed for it?

Blocks x + branch(x) with two linear layers and ReLU on digits, He's weights in all variants; SGD with momentum 0.9, one
epoch, several learning rates. With He's weights alone the second moment doubles per block, in the mean over networks;
the typical narrow one stays below that mean. BatchNorm in front of each ReLU makes it grow by a constant instead. Fixup
starts the last layer of every branch and the classifier at 0, scales the other layer by L^(-1/2) for L blocks, and adds
scalar biases and multipliers; SkipInit multiplies the branch by a learned scalar that starts at 0. In both every block
is the identity at first.

Expected: without any of it 10 blocks train at small rates at best, and 30 and 100 at none. BatchNorm, Fixup and
SkipInit train at every depth; what they share is that a branch adds little to its input in a deep network.
Source: Zhang et al. 2019, "Fixup initialization"; De & Smith 2020, "Batch normalization biases residual blocks towards
the identity function"; He et al. 2016 for the block.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from initbench_core.networks.models import ResidualBlock, mlp_weights
from initbench_core.networks.residual import NORM_OF, VARIANTS, FixupBlock, residual_network, second_moment
from initbench_core.presentation import plots
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.signs import signs
from initbench_core.presentation.statistics import interval, spread, verdict, wilson
from initbench_core.presentation.story import Claim, do_train
from initbench_core.records.frame import per_trial, tidy
from initbench_core.records.schema import Emission, Measurement, Record, scalar
from initbench_core.training.data import Data, described
from initbench_core.training.metrics import METRICS
from initbench_core.training.probing import geometric_factor, look
from initbench_core.training.recipe import Recipe
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_cell
from initbench_core.training.train import train

# The variant without any remedy gets smaller rates as well: its signal is too large for the others.
RATES = {"none": (0.1, 0.01, 0.001, 0.0001), "batch_norm": (0.1, 0.01), "fixup": (0.1, 0.01), "skip_init": (0.1, 0.01)}
TARGET = 0.7
NAMES = {"none": "no normalization", "batch_norm": "BatchNorm", "fixup": "Fixup", "skip_init": "SkipInit"}
IN_WORDS = {name: f"with {title}" for name, title in NAMES.items()} | {"none": "without normalization"}
GUESS = 0.1  # test accuracy of a training that diverged


@dataclass(frozen=True)
class Config:
    """One training."""

    data: str
    variant: str
    blocks: int
    width: int
    epochs: int
    lr: float
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Every variant at every depth and rate."""
    depths = setting.pick(smoke=(4,), quick=(10, 30, 100), full=(10, 20, 30, 50, 100))
    width, epochs = setting.pick(smoke=(16, 1), quick=(48, 1), full=(100, 10))
    for seed in range(setting.seeds):
        for blocks in depths:
            for variant in VARIANTS:
                for lr in RATES[variant]:
                    yield Config(setting.data.images(), variant, blocks, width, epochs, lr, seed)


def prepare(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
    """Build the network by its variant's rules."""
    data = setting.data.load(config.data)
    body = residual_network(config.variant, data.train.x[0].numel(), config.width, config.blocks, 10, seed=config.seed)
    recipe = Recipe(config.epochs, lr=config.lr, momentum=0.9, batch_size=64, target=TARGET, record_every=10,
                    target_metric="validation_accuracy", model_metrics=("update_ratio",))  # fmt: skip
    return nn.Sequential(nn.Flatten(), *body), data, recipe


def weights(config: Config) -> int:
    """Count the weights of a network: those of an MLP with two layers a block; the variants' single numbers are few."""
    return mlp_weights(784, config.width, 2 * config.blocks + 1, 10, norm=NORM_OF.get(config.variant, "none"))


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Look at one network, then train it."""
    model, data, recipe = prepare(config, setting)
    yield from _look(config, [model], data, recipe)[0]
    yield from train(model, data, recipe, seed=config.seed, setting=setting)


def run_together(configs: Sequence[Config], setting: Setting) -> list[list[Emission]]:
    """Look at the networks of several seeds, then train them at once."""
    return train_cell(prepare, configs, setting, partial(_look, configs[0]))


def _look(config: Config, models: Sequence[nn.Module], data: Data, recipe: Recipe) -> list[list[Measurement]]:
    """Look at the networks, and follow the second moment over their blocks; once, for the start has no rate."""
    if config.lr != RATES[config.variant][0]:
        return [[] for _ in models]
    looks = zip(models, look(models, data, recipe), strict=True)
    return [[*seen, *_growth(config.variant, model, data)] for model, seen in looks]


@torch.no_grad()
def _growth(variant: str, model: nn.Module, data: Data) -> Iterator[Measurement]:
    """Follow the second moment over the untrained network's blocks, from the first one's input, beside its law."""
    x, moments = data.train.x[:256].double(), []
    for layer in list(copy.deepcopy(model).double().children())[:-1]:  # without the classifier
        x = layer(x)
        if isinstance(layer, (nn.Linear, ResidualBlock, FixupBlock)):
            moments.append(float(METRICS["second_moment"].function(x)))
    blocks = list(range(len(moments)))
    law = [second_moment(variant, block, moments[0]) for block in blocks]
    for metric, values in (("block_second_moment", moments), ("block_second_moment_theory", law)):
        yield Measurement(metric, "1", values, {"block": blocks})
    yield scalar("block_factor", "1", geometric_factor(moments))
    yield scalar("block_factor_ratio", "1", geometric_factor(moments) / geometric_factor(law))


def _best(records: Sequence[Record]) -> pd.DataFrame:
    """A row per variant, depth and seed: the rate whose mean validation loss is lowest, for all seeds alike."""
    frame = per_trial(records)
    frame["test_accuracy"] = frame["test_accuracy"].fillna(GUESS)
    loss = frame["best_validation_loss"].fillna(math.inf)
    means = frame.assign(loss=loss).groupby(["variant", "blocks", "lr"])["loss"].mean().reset_index()
    # Where every rate diverged for some seed, the first in order, the smallest, stands for all.
    best = means.loc[means.groupby(["variant", "blocks"])["loss"].idxmin(), ["variant", "blocks", "lr"]]
    return frame.merge(best, on=["variant", "blocks", "lr"])


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per variant and depth: accuracy at the best rate, compared with BatchNorm's; largest rate that trains."""
    frame, best = per_trial(records), _best(records)
    rows, start, seen = [], signs(records, "blocks", "variant"), signs(records, "blocks", "variant", "lr")
    for (blocks, variant), cell in best.groupby(["blocks", "variant"], sort=False):
        accuracy = cell["test_accuracy"]
        reference = best[(best["blocks"] == blocks) & (best["variant"] == "batch_norm")]
        paired = cell.set_index("seed")["test_accuracy"] - reference.set_index("seed")["test_accuracy"]
        of_all = frame[(frame["blocks"] == blocks) & (frame["variant"] == variant)]
        trained = of_all[of_all["outcome"] == "trained"]
        rows.append(
            {
                "blocks": blocks,
                "variant": NAMES[str(variant)],
                "best rate": cell["lr"].iloc[0],
                "trained there": f"{(cell['outcome'] == 'trained').sum()} of {len(cell)}",
                "test accuracy, median": accuracy.median(),
                "lowest": accuracy.min(),
                "highest": accuracy.max(),
                "minus BatchNorm, paired": spread(paired, form="+.3f") if variant != "batch_norm" else "-",
                "separated": verdict(paired) if variant != "batch_norm" else "-",
                "largest rate that trains": trained["lr"].max() if len(trained) else math.nan,
                "diverged, all rates": f"{(of_all['outcome'] == 'diverged').sum()} of {len(of_all)}",
                "n": len(cell),
            }
            | start[blocks, variant]
            | seen[blocks, variant, cell["lr"].iloc[0]]
        )
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """What trains at the greatest depth, and how the second moment grows."""
    best = _best(records)
    depths, data = sorted(best["blocks"].unique()), described(best["data"].iloc[0])
    deepest = best[best["blocks"] == depths[-1]]
    trained = (deepest["outcome"] == "trained").groupby(deepest["variant"]).sum()
    yield Finding(
        f"Seeds of {deepest['seed'].nunique()} that train with {depths[-1]} blocks on {data}, each variant at its best "
        f"rate: {', '.join(f'{trained[variant]} {words}' for variant, words in IN_WORDS.items())}.",
        "depth",
    )
    for blocks in (depths[-1], depths[0]):
        parts = []
        for variant, name in NAMES.items():
            cell = best[(best["blocks"] == blocks) & (best["variant"] == variant)]
            accuracy, reached = cell["test_accuracy"], int((cell["outcome"] == "trained").sum())
            ends = f"{accuracy.min():.2f} to {accuracy.max():.2f}"
            parts.append(f"{name} {accuracy.median():.2f} ({ends}; trained {reached} of {len(cell)})")
        yield (
            f"Test accuracy on {data} with {blocks} blocks, median and range over seeds at the best rate of each: "
            f"{', '.join(parts)}."
        )
    growth = _second_moments(records)
    last = growth[growth["block"] == depths[-1]].groupby("variant")["value"]
    centers = {variant: interval(group, log=True).center for variant, group in last}
    start = float(growth[growth["block"] == 0]["value"].mean())
    moments = [f"{centers[v]:.3g} ({second_moment(v, depths[-1], start):.3g}) {name}" for v, name in IN_WORDS.items()]
    yield Finding(
        f"Second moment behind {depths[-1]} blocks at initialization, geometric mean over seeds (theory's mean): "
        f"{', '.join(moments)}.",
        "depth",
    )


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """What trains at the greatest depth, with and without BatchNorm."""
    best = _best(records)
    blocks, data = best["blocks"].max(), described(best["data"].iloc[0])
    theory = {"none": "the second moment doubles per block", "batch_norm": "it grows by 1 per block"}
    cells = {v: best[(best["blocks"] == blocks) & (best["variant"] == v)]["outcome"] for v in NAMES}
    trained = {variant: wilson(int((cell == "trained").sum()), len(cell)) for variant, cell in cells.items()}
    chapter = "batch_norm_adds" if trained["batch_norm"].low > trained["none"].high else "batch_norm_does_not_help"
    for variant, cell in cells.items():
        yield Claim(
            chapter if variant == "batch_norm" else "initialization",
            f"{blocks} residual blocks {IN_WORDS[variant]} {do_train(trained[variant])} on {data}: fraction of seeds "
            "that train at the best rate",
            trained[variant],
            len(cell),
            theory.get(variant, "every block starts as the identity"),
            ".2f",
        )


def _second_moments(records: Sequence[Record]) -> pd.DataFrame:
    """Second moments by variant and block of the deepest networks."""
    frame = tidy([r for r in records if r.config["lr"] == RATES["none"][0]])
    return frame[(frame["metric"] == "block_second_moment") & (frame["blocks"] == frame["blocks"].max())]


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Growth at initialization beside theory, and accuracy by depth."""
    best, growth = _best(records), _second_moments(records)
    data, n = described(best["data"].iloc[0]), best["seed"].nunique()
    figure, axes = plots.panels(1, 2, title=f"Residual networks: {data}, {n} seeds", height=4.0)
    for color, (variant, name) in zip(plots.CYCLE, NAMES.items(), strict=False):
        # Fixup and SkipInit lie on one line at first.
        dashes = ":" if variant == "skip_init" else "-"
        moments = growth[growth["variant"] == variant]
        plots.band(axes[0], moments, "block", name=name, log=True, color=color, ls=dashes, lw=2.6)
        cell = best[best["variant"] == variant]
        shifted = cell["blocks"] * (1 + 0.03 * (list(NAMES).index(variant) - 1.5))
        axes[1].plot(shifted, cell["test_accuracy"], "o", color=color, ms=5, alpha=0.7)
        medians = cell.groupby("blocks")["test_accuracy"].median()
        axes[1].plot(medians.index, medians, color=color, ls=dashes, label=name)
    blocks = np.arange(growth["block"].max() + 1)
    start = float(growth[growth["block"] == 0]["value"].mean())
    for variant in ("none", "batch_norm", "fixup"):
        predicted = [second_moment(variant, int(block), start) for block in blocks]
        plots.theory(axes[0], blocks, predicted, "theory" if variant == "none" else "")
    axes[0].set_yscale("log")
    plots.label(axes[0], x="block", y="second moment behind the block", title="at initialization")
    plots.level(axes[1], GUESS, "a guess")
    axes[1].set(xscale="log", ylim=(0, 1))
    plots.log_ticks(axes[1].xaxis, sorted(best["blocks"].unique()))
    steps = "one epoch" if best["epochs"].iloc[0] == 1 else f"{best['epochs'].iloc[0]} epochs"
    plots.label(axes[1], x="blocks (line: median)", y="test accuracy (fraction)", title=f"after {steps}, best rate")
    axes[0].legend()
    return {"depth": figure}
