"""BatchNorm and the batch size, from 2 to 256, at equal samples seen.

Question: how small may a batch be before BatchNorm's statistics cost more than they give?

An MLP of three hidden layers of 100 ReLU units on digits, Kaiming's weights, plain SGD; every batch size sees the same
samples, two epochs, with a learning rate in proportion to it (0.1 at 64). The control arm without BatchNorm has the
same batches and rates. The target is a validation accuracy of 70%, scored once an epoch. What differs between training
and evaluation is BatchNorm's statistics: those of a batch, or running averages of them. So each network is also scored
on the test images with the statistics of batches of its own training size.

Expected: a batch of 2 makes every normalized unit +1 or -1 (or 0): only the sign of a difference passes, and BatchNorm
is worse than none. Its advantage returns within a few doublings. At the largest batches, with few steps and large
rates, BatchNorm is the arm that still trains. The published curve for ImageNet rises from 23.6% errors at 32 samples
to 34.7% at 2.
Source: Wu & He 2018, "Group normalization", figure 1; Goyal et al. 2017 for the rate's rule.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from initbench_core.networks.models import mlp
from initbench_core.presentation import plots
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.signs import signs
from initbench_core.presentation.statistics import interval, separates
from initbench_core.presentation.story import Claim, raises_or_lowers
from initbench_core.records.frame import per_trial, tidy
from initbench_core.records.schema import Emission, Record, scalar
from initbench_core.training.data import Data, Split, described
from initbench_core.training.metrics import METRICS
from initbench_core.training.probing import look
from initbench_core.training.seeding import initialize_for_
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_cell
from initbench_core.training.train import Recipe, train
from initbench_core.training.trial_log import batch_bounds

RATE_PER_SAMPLE = 0.1 / 64
TARGET = 0.7
ERRORS = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
ARMS = {"before": "BatchNorm before ReLU", "none": "no BatchNorm"}


@dataclass(frozen=True)
class Config:
    """One training."""

    data: str
    norm: str
    batch: int
    width: int
    epochs: int
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Every batch size with and without BatchNorm."""
    batches = setting.pick(smoke=(2, 64), quick=(2, 4, 8, 16, 32, 64, 256), full=(2, 4, 8, 16, 32, 64, 128, 256))
    width, epochs = setting.pick(smoke=(8, 1), quick=(100, 2), full=(100, 20))
    for seed in range(setting.seeds):
        for batch in batches:
            for norm in ARMS:
                yield Config(setting.data.images(), norm, batch, width, epochs, seed)


def prepare(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
    """Build the network; the rate follows the batch size."""
    data = setting.data.load(config.data)
    model = nn.Sequential(nn.Flatten(), *mlp(data.train.x[0].numel(), config.width, 3, 10, norm=config.norm))
    initialize_for_(setting, model, "kaiming_normal", seed=config.seed)
    recipe = Recipe(
        epochs=config.epochs,
        lr=RATE_PER_SAMPLE * config.batch,
        batch_size=config.batch,
        target=TARGET,
        target_metric="validation_accuracy",
        record_every=max(1, 512 // config.batch),
        model_metrics=("update_ratio",),
    )
    return model, data, recipe


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Train one network and score it with both kinds of statistics."""
    model, data, recipe = prepare(config, setting)
    yield from look([model], data, recipe, norm=config.norm)[0]
    yield from train(model, data, recipe, seed=config.seed, setting=setting)
    yield from _with_batch_statistics(model, data.to(setting.device).test, config)


def run_together(configs: Sequence[Config], setting: Setting) -> list[list[Emission]]:
    """Train the networks of several seeds at once."""
    models: list[nn.Module] = []

    def keep(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
        prepared = prepare(config, setting)
        models.append(prepared[0])
        return prepared

    trained = train_cell(keep, configs, setting, partial(look, norm=configs[0].norm))
    test = setting.data.load(configs[0].data).to(setting.device).test
    return [
        [*emissions, *_with_batch_statistics(model, test, config)]
        for emissions, model, config in zip(trained, models, configs, strict=True)
    ]


@torch.no_grad()
def _with_batch_statistics(model: nn.Module, test: Split, config: Config) -> Iterator[Emission]:
    """Score a copy, whose running statistics may move, on batches of the training's size."""
    model = copy.deepcopy(model).train()
    bounds = batch_bounds(len(test.x), config.batch)
    accuracy = METRICS["accuracy"].function
    correct = [float(accuracy(model(test.x[a:b]), test.y[a:b])) * (b - a) for a, b in bounds]
    yield scalar("test_accuracy_of_batches", "fraction", sum(correct) / sum(b - a for a, b in bounds))


def _accuracies(records: Sequence[Record], metric: str = "test_accuracy") -> pd.DataFrame:
    """A row per seed, a column per (batch, norm); a training that diverged has the accuracy of a guess, 0.1."""
    frame = per_trial(records)
    frame[metric] = frame[metric].where(frame["outcome"] != "diverged", 0.1).fillna(0.1)
    return frame.pivot(index="seed", columns=["batch", "norm"], values=metric)


def _gain(accuracies: pd.DataFrame, batch: int) -> pd.Series:
    """Return, paired, by how much BatchNorm raises the test accuracy."""
    return accuracies[batch, "before"] - accuracies[batch, "none"]


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per batch size: accuracies of both arms, their paired difference, the gap of the statistics."""
    accuracies, of_batches = _accuracies(records), _accuracies(records, "test_accuracy_of_batches")
    diverged = per_trial(records).assign(bad=lambda f: f["outcome"] == "diverged").groupby(["batch", "norm"])["bad"]
    rows, seen = [], signs(records, "batch", "norm")
    for batch in sorted(set(accuracies.columns.get_level_values("batch"))):
        gain = interval(_gain(accuracies, batch))
        rows.append(
            {
                "batch": batch,
                "learning rate": RATE_PER_SAMPLE * batch,
                "test accuracy, BatchNorm": accuracies[batch, "before"].mean(),
                "by batch statistics": of_batches[batch, "before"].mean(),
                "test accuracy, none": accuracies[batch, "none"].mean(),
                "difference, paired": gain.center,
                "low": gain.low,
                "high": gain.high,
                "separated": "yes" if separates(gain, 0.0) else "no",
                "diverged, BatchNorm": int(diverged.sum()[batch, "before"]),
                "diverged, none": int(diverged.sum()[batch, "none"]),
                "n": len(accuracies),
            }
            | {f"{sign}, BatchNorm": value for sign, value in seen[batch, "before"].items()}
            | {f"{sign}, none": value for sign, value in seen[batch, "none"].items()}
        )
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Where BatchNorm is worse, where better, and what the statistics do."""
    accuracies, of_batches = _accuracies(records), _accuracies(records, "test_accuracy_of_batches")
    batches = sorted(set(accuracies.columns.get_level_values("batch")))
    data = described(str(records[0].config["data"]))
    gains = {b: interval(_gain(accuracies, b)) for b in batches}
    parts = [f"{gain.center:+.3f} at {b}" for b, gain in gains.items()]
    worse, better = ([b for b, g in gains.items() if separates(g, 0.0) and sign * g.center > 0] for sign in (-1, 1))
    open_ = [b for b in batches if b not in (*worse, *better)]
    yield Finding(
        f"By paired intervals (n = {len(accuracies)}) BatchNorm lowers the test accuracy on {data} at batches of "
        f"{_listed(worse)}, raises it at {_listed(better)}, and is not told apart from none at {_listed(open_)}.",
        "error",
    )
    yield f"At equal samples seen BatchNorm changes it by {', '.join(parts)} samples in a batch."
    gaps = {b: float((of_batches[b, "before"] - accuracies[b, "before"]).mean()) for b in batches}
    yield (
        "Scored with the statistics of batches of the training's size in place of running ones, the same networks' "
        "test accuracy changes by " + ", ".join(f"{gap:+.3f} at {b}" for b, gap in gaps.items()) + "."
    )


def _listed(batches: Sequence[int]) -> str:
    return ", ".join(map(str, batches)) if batches else "none of those tried"


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """The smallest batch, and 64; what the interval shows says where it is told."""
    accuracies = _accuracies(records)
    data = described(str(records[0].config["data"]))
    for batch, theory in ((2, "worse (Wu & He 2018: ImageNet error 34.7% at 2, 23.6% at 32)"), (64, None)):
        gain = interval(_gain(accuracies, batch))
        chapter = "batch_norm_adds" if gain.low > 0 else "batch_norm_does_not_help"
        sentence = (
            f"BatchNorm at batches of {batch} {raises_or_lowers(gain)} the test accuracy on {data}: paired difference"
        )
        yield Claim(chapter, sentence, gain, len(accuracies), theory, form="+.3f")


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Test error of each seed by batch size, with both kinds of statistics, and without BatchNorm."""
    frame = tidy(records)
    data, n = described(frame["data"].iloc[0]), frame["seed"].nunique()
    figure, axes = plots.panels(1, 1, title=f"Test error by batch size, lower is better: {data}, {n} seeds", height=3.8)
    lines = (
        ("before", "test_accuracy", "BatchNorm, running statistics", "-"),
        ("before", "test_accuracy_of_batches", "same networks, statistics of batches", "--"),
        ("none", "test_accuracy", "no BatchNorm", "-"),
    )
    for norm, metric, name, dashes in lines:
        wide = 1 - _accuracies(records, metric).xs(norm, axis=1, level="norm")
        long = wide.melt(var_name="batch", value_name="value")
        color = plots.CYCLE[1 if norm == "before" else 0]
        axes.plot(long["batch"], long["value"], "o", color=color, ms=4, alpha=0.5, mfc=color if dashes == "-" else "w")
        axes.plot(wide.median(), color=color, ls=dashes, label=name)
    plots.level(axes, 0.9, "a guess")
    axes.set_xscale("log", base=2)
    plots.log_ticks(axes.xaxis, sorted(frame["batch"].unique()))
    # On a log axis large batches, which differ by a percent, are told apart beside small ones.
    axes.set_yscale("log")
    plots.log_ticks(axes.yaxis, ERRORS)
    rule = "equal samples seen; learning rate 0.1 at 64, in proportion"
    plots.label(axes, x=f"batch size ({rule})", y="test error (fraction)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return {"error": figure}
