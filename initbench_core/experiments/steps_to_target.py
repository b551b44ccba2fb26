"""Steps to a target with BatchNorm at higher learning rates.

Question: how many times fewer steps does a CNN need with BatchNorm, once its learning rate is raised as well?

The design of the paper's single-network experiment at a small scale. A plain CNN of six 3x3 convolutions with 12
channels and a global average pool on digits, Kaiming's weights, SGD without momentum, batches of 64, until 90% of the
validation images are right. The baseline without BatchNorm has the rate that serves it well (0.1: half of it is slower,
five times as much fails). The target is looked for after each epoch (50 steps on the 5,000 digits), so that steps are
upper bounds by as much. Where it is not reached within the budget the trial is censored, never dropped.

Expected: the paper's steps to the baseline's accuracy were 31.0 million without BatchNorm, 13.3 with it at the same
rate, 2.1 at 5 times the rate and 2.7 at 30 times: ratios of 2.3, 15 and 11. The unnormalized network at 5 times the
rate reached machine infinity. The network here is far smaller, and its ratios are too; their order is what to expect
again: most steps saved at 5 or 30 times the rate, and no gain from the rate without BatchNorm.
Source: Ioffe & Szegedy 2015, section 4.2.1 and figure 3.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn.grad import conv2d_input

from initbench_core.networks.models import plain_cnn
from initbench_core.presentation import curves, plots
from initbench_core.presentation.censored import Ratio, restricted_mean, steps_ratio
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.signs import signs
from initbench_core.presentation.statistics import wilson
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import per_trial
from initbench_core.records.schema import Emission, Measurement, Record, scalar
from initbench_core.training.data import TRAINING_IMAGES, described
from initbench_core.training.probing import geometric_factor, look
from initbench_core.training.seeding import initialize_for_
from initbench_core.training.setting import Setting
from initbench_core.training.train import Recipe, train
from initbench_core.training.trial_log import batch_bounds

BASE_RATE = 0.1
TARGET = 0.9
BATCH = 64
BASELINE = ("none", 1)
ARMS = (BASELINE, ("none", 5), ("before", 1), ("before", 5), ("before", 30))
# The paper's millions of steps to 72.2%, its baseline's accuracy.
PUBLISHED_STEPS = {("none", 1): 31.0, ("before", 1): 13.3, ("before", 5): 2.1, ("before", 30): 2.7}


@dataclass(frozen=True)
class Config:
    """One training."""

    data: str
    norm: str
    times: int  # learning rate over the base rate
    channels: int
    depth: int
    epochs: int  # the budget
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """The baseline, and every arm beside it."""
    channels, depth, epochs = setting.pick(smoke=(4, 3, 1), quick=(12, 6, 20), full=(16, 8, 60))
    for seed in range(setting.seeds):
        for norm, times in ARMS:
            yield Config(setting.data.images(), norm, times, channels, depth, epochs, seed)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Train until the target or the end of the budget."""
    model = plain_cnn(config.channels, config.depth, 10, norm=config.norm)
    initialize_for_(setting, model, "kaiming_normal", seed=config.seed)
    recipe = Recipe(
        epochs=config.epochs,
        lr=BASE_RATE * config.times,
        batch_size=BATCH,
        target=TARGET,
        target_metric="validation_accuracy",
        stop_at_target=True,
        record_every=10,
        model_metrics=("update_ratio",),
    )
    data = setting.data.load(config.data)
    seen = look([model], data, recipe)[0]
    yield from seen
    if config.norm == "none":
        yield from _beside_theory(model, data.train.x[:BATCH], seen)
    yield from train(model, data, recipe, seed=config.seed, setting=setting)


@torch.no_grad()
def _beside_theory(model: nn.Module, x: torch.Tensor, seen: Sequence[Measurement]) -> Iterator[Measurement]:
    """Predict the second moments of a padded CNN without BatchNorm by pixel: those at the border see fewer inputs.

    Half of a pixel's second moment passes the ReLU, and the weights' mean squares carry it on: to all pixels under the
    kernel forward, from them backward. The law is exact in the mean over He's weights. With BatchNorm a pixel's share
    of the channel's variance depends on the images too: no law here.

    Args:
        model: of `plain_cnn`, as it starts.
        x: the images that `seen` is of [N, 1, H, W].
        seen: what `look` found.
    """
    first, *others = (copy.deepcopy(layer).double() for layer in model.modules() if isinstance(layer, nn.Conv2d))
    maps = [first(x.to(first.weight).double()).square().mean(dim=1, keepdim=True)]
    for conv in others:
        kernel = conv.weight.square().mean(dim=0, keepdim=True).sum(dim=1, keepdim=True) / 2
        maps.append(nn.functional.conv2d(maps[-1], kernel, stride=conv.stride, padding=conv.padding))
    # All pixels weigh alike in the average behind the last layer; those that see no ink are 0 and pass nothing back.
    gradients = [(maps[-1] > 0).double()]
    for conv, below in zip(reversed(others), maps[-2::-1], strict=True):
        kernel = conv.weight.square().mean(dim=1, keepdim=True).sum(dim=0, keepdim=True) / 2
        above = conv2d_input(below.shape, kernel, gradients[-1], conv.stride, conv.padding)
        gradients.append(above * (below > 0))
    measured = {m.metric: m.values for m in seen}
    forward, backward = ([float(at.mean()) for at in values] for values in (maps, gradients))
    backward = [g / backward[0] * measured["gradient_second_moment"][-1] for g in backward]
    axes = {"layer": list(range(1, len(maps) + 1))}
    yield Measurement("second_moment_theory", "1", forward, axes)
    yield Measurement("gradient_second_moment_theory", "1", backward[::-1], axes)
    for way, theory in (("forward", forward), ("backward", backward)):
        yield scalar(f"{way}_factor_ratio", "1", measured[f"{way}_factor"][0] / geometric_factor(theory))


def _name(norm: str, times: int) -> str:
    return ("no BatchNorm" if norm == "none" else "BatchNorm") + f", rate x{times}"


def _steps(records: Sequence[Record]) -> tuple[pd.DataFrame, float]:
    """Steps to the target, a row per seed and a column per arm (inf: not reached), and the budget in steps."""
    frame = per_trial(records)
    wide = frame.pivot(index="seed", columns=["norm", "times"], values="steps_to_target")
    return wide, len(batch_bounds(TRAINING_IMAGES[frame["data"].iloc[0]], BATCH)) * float(frame["epochs"].max())


def _ratio(records: Sequence[Record], arm: tuple[str, int]) -> Ratio:
    """Return how many times fewer steps an arm needs than the baseline."""
    steps, budget = _steps(records)
    return steps_ratio(steps[BASELINE], steps[arm], budget)


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per arm: restricted mean of the steps, paired ratio to the baseline, the paper's ratio."""
    steps, budget = _steps(records)
    outcomes = per_trial(records).groupby(["norm", "times"])["outcome"]
    rows, seen = [], signs(records, "norm", "times")
    for arm in ARMS:
        ratio = _ratio(records, arm)
        is_baseline = arm == BASELINE
        rows.append(
            {
                "arm": _name(*arm),
                "learning rate": BASE_RATE * arm[1],
                "steps (restricted mean)": f"{restricted_mean(steps[arm], budget):.0f}",
                "times fewer than the baseline": "-" if is_baseline else f"{ratio:.2g}",
                "separated": "-" if is_baseline else ratio.separated,
                "published ratio": PUBLISHED_STEPS[BASELINE] / PUBLISHED_STEPS[arm] if arm in PUBLISHED_STEPS else None,
                "outcomes": ", ".join(sorted(set(outcomes.get_group(arm)))),
            }
            | seen[arm]
        )
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """The ratios beside the published ones, and the raised rate without BatchNorm."""
    steps, budget = _steps(records)
    data = described(str(records[0].config["data"]))
    parts = []
    for arm in ARMS[2:]:
        published = PUBLISHED_STEPS[BASELINE] / PUBLISHED_STEPS[arm]
        parts.append(f"{_ratio(records, arm):.2g} at rate x{arm[1]} (published {published:.2g})")
    yield Finding(
        f"To {TARGET:.0%} on {data} a network with BatchNorm needs so many times fewer steps than the baseline "
        f"({_name(*BASELINE)}): {', '.join(parts)}; n = {len(steps)} pairs.",
        "steps",
    )
    plain, raised = (restricted_mean(steps[arm], budget) for arm in (BASELINE, ("none", 5)))
    yield (
        f"Steps without BatchNorm, restricted to the budget of {budget:.0f}: {plain:.0f} at the base rate, "
        f"{raised:.0f} at five times the rate."
    )


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """The gain at five times the rate, and what the rate alone does."""
    steps, _ = _steps(records)
    data = described(str(records[0].config["data"]))
    ratio = _ratio(records, ("before", 5))
    published = PUBLISHED_STEPS[BASELINE] / PUBLISHED_STEPS["before", 5]
    yield Claim(
        "batch_norm_adds" if ratio.is_above else "batch_norm_does_not_help",
        f"A small CNN on {data} with BatchNorm at five times the rate reaches its target in this many times fewer "
        "steps than without",
        ratio,
        len(steps),
        f"{published:.2g} for Inception on ImageNet (Ioffe & Szegedy 2015)",
        form=".2g",
    )
    without, reached = (int(np.isfinite(steps[norm, 5]).sum()) for norm in ("none", "before"))
    helps = wilson(reached, len(steps)).low > wilson(without, len(steps)).high
    yield Claim(
        "batch_norm_adds" if helps else "batch_norm_does_not_help",
        f"The same CNN without BatchNorm at five times the rate, on {data}: fraction of seeds that reach the target "
        f"(with BatchNorm {reached} of {len(steps)})",
        wilson(without, len(steps)),
        len(steps),
        "none: machine infinity (Ioffe & Szegedy 2015)",
        ".2f",
    )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Survival curves of the arms, and the ratios beside the paper's."""
    steps, budget = _steps(records)
    data = described(str(records[0].config["data"]))
    figure, axes = plots.panels(
        1, 2, title=f"Steps to {TARGET:.0%} validation accuracy: {data}, {len(steps)} seeds", width=11.0, height=4.0
    )
    curves.survival_curves(axes[0], {_name(*arm): steps[arm] for arm in ARMS}, budget)
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2)
    plots.log_ticks(axes[0].xaxis, [s for s in (100, 200, 500, 1000, 2000, 5000) if s <= budget])
    for i, arm in enumerate(ARMS[1:]):
        if arm in PUBLISHED_STEPS:
            published = PUBLISHED_STEPS[BASELINE] / PUBLISHED_STEPS[arm]
            axes[1].plot([published], [i], "D", mfc="none", color=plots.INK, ms=8, label="published" if i == 1 else "")
        if not np.isfinite(steps[arm]).any():
            axes[1].annotate(f"target reached by 0 of {len(steps)}", (1.0, i), (6, -3), textcoords="offset points")
            continue
        ratio = _ratio(records, arm)
        ends = np.nan_to_num(np.abs([[ratio.center - ratio.low], [ratio.high - ratio.center]]))
        color = plots.CYCLE[i + 1]
        axes[1].errorbar([ratio.center], [i], xerr=ends, fmt="o", ms=8, capsize=3, color=color)
        axes[1].annotate(
            ratio.brief(".2g"), (ratio.center, i), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=9
        )
    axes[1].axvline(1.0, color=plots.INK, lw=1.0, ls=(0, (4, 2)))
    axes[1].set(xscale="log", xlim=(0.5, 25), ylim=(len(ARMS) - 1.5, -0.6))
    plots.log_ticks(axes[1].xaxis, [0.5, 1, 2, 5, 10, 20])
    axes[1].set_yticks(range(len(ARMS) - 1), [_name(*arm) for arm in ARMS[1:]])
    plots.label(axes[1], x="times fewer steps than the baseline (95% interval)", y="")
    axes[1].legend(loc="upper right")
    return {"steps": figure}
