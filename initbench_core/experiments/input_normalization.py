"""Input normalization: steps to the target with inputs of very different scales.

Question: how many steps of gradient descent does normalizing the inputs save?

Eight features with standard deviations from 0.32 to 3.2 and means as large; y is linear in their standardized
values, plus noise. A linear model and an MLP with Kaiming weights learn from raw, centered, scaled and standardized
inputs, each with the best learning rate of a grid of half decades, for a fair comparison. The article this grows from
argues with elongated contours and with gradients of one sign, two different things (scale and mean), and its own code
then does not normalize: `ToTensor` only divides by 255. Centering and scaling are separate arms here.
Standardized means (x - mean) / std with N - 1 in the variance, as the lecture writes it.

Expected: for the linear model steps grow in proportion to the condition number of the inputs' second moments; only
centering and scaling together bring it near 1. The target is 1.05 times the least-squares loss.
Source: LeCun et al. 1998, "Efficient BackProp", section 4.3.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from initbench_core.errors import check_choice, choose
from initbench_core.networks.initializers import initialize_layers_
from initbench_core.networks.models import mlp
from initbench_core.presentation import plots
from initbench_core.presentation.censored import censored_ratio, restricted_mean, steps_ratio
from initbench_core.presentation.finding import Finding
from initbench_core.records.frame import per_trial
from initbench_core.records.schema import Emission, Record, scalar
from initbench_core.training.data import Data, Split
from initbench_core.training.evaluation import LINE_TARGET, least_squares_loss
from initbench_core.training.setting import Setting
from initbench_core.training.train import Recipe, train

ARMS = ("raw", "centered", "scaled", "standardized")
MODELS = ("linear", "mlp")
RATES = tuple(10 ** (e / 2) for e in range(-6, 1))


@dataclass(frozen=True)
class Config:
    """One training at one rate."""

    model: str
    inputs: str
    lr: float
    steps: int
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Every model, arm and rate."""
    steps = setting.pick(smoke=20, quick=1500, full=20_000)
    for seed in range(setting.seeds):
        for model in MODELS:
            for inputs in ARMS:
                for lr in RATES:
                    yield Config(model, inputs, round(lr, 8), steps, seed)


def badly_scaled(samples: int = 500) -> tuple[Split, Split]:
    """Draw a training and a held-out split: x [samples, 8], stds 0.32 to 3.2, means as large; y with unit noise."""
    slope, stds = torch.randn(8, 1), torch.logspace(-0.5, 0.5, 8)
    z = torch.randn(2 * samples, 8)
    y = z @ slope + torch.randn(2 * samples, 1)
    x = stds * (z + 1)
    return Split(x[:samples], y[:samples]), Split(x[samples:], y[samples:])


def prepare(x: torch.Tensor, inputs: str, reference: torch.Tensor) -> torch.Tensor:
    """Return `x` [N, features] as the arm wants it, by the statistics of `reference`, the training inputs."""
    mean, std = reference.mean(dim=0), reference.std(dim=0)
    arms = {"raw": x, "centered": x - mean, "scaled": x / std, "standardized": (x - mean) / std}
    return choose("treatment of inputs", inputs, arms)


def condition_number(x: torch.Tensor) -> float:
    """Return the condition number of the second moments of (x, 1): the elongation of a linear model's contours."""
    design = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    eigenvalues = torch.linalg.eigvalsh(design.T @ design / len(x))
    return float(eigenvalues[-1] / eigenvalues[0])


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Train one model until the target or the end of its steps."""
    check_choice("model", config.model, MODELS)
    raw, unseen = badly_scaled()
    split = Split(prepare(raw.x, config.inputs, raw.x), raw.y)
    held_out = Split(prepare(unseen.x, config.inputs, raw.x), unseen.y)
    model = mlp(8, 32, 0 if config.model == "linear" else 2, 1)
    initialize_layers_(model, "kaiming_normal")
    yield scalar("condition_number", "1", condition_number(split.x))
    recipe = Recipe(
        epochs=config.steps,
        lr=config.lr,
        target=LINE_TARGET * least_squares_loss(raw),
        target_metric="train_loss",
        stop_at_target=True,
        record_every=max(1, config.steps // 20),
        evaluate_every=config.steps,
    )
    yield from train(model, Data("badly_scaled", split, held_out, held_out), recipe, seed=config.seed, setting=setting)


def best_rate(records: Sequence[Record]) -> pd.DataFrame:
    """One row per model, arm and seed: the fewest steps to the target over the rates (inf: none got there)."""
    frame = per_trial(records)
    keys = ["model", "inputs", "seed"]
    best = frame.sort_values("steps_to_target", kind="stable").groupby(keys, sort=False).first().reset_index()
    stable = frame[frame["outcome"] != "diverged"].groupby(keys)["lr"].max().rename("largest_stable_rate")
    return best.merge(stable.reset_index(), on=keys, how="left")


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per model and arm: condition number, steps at the best rate, largest stable rate."""
    best = best_rate(records).sort_values("seed")
    budget = int(best["steps"].max())
    rows = []
    for model in MODELS:
        for inputs in ARMS:
            cell = best[(best["model"] == model) & (best["inputs"] == inputs)]
            rows.append(
                {
                    "model": model,
                    "inputs": inputs,
                    "condition number": cell["condition_number"].median(),
                    "steps to target": f"{restricted_mean(cell['steps_to_target'], budget):.0f}",
                    "best rate": cell["lr"][np.isfinite(cell["steps_to_target"])].median(),
                    "largest stable rate": cell["largest_stable_rate"].median(),
                }
            )
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Steps of each arm, a sentence per model, and the rates that standardized inputs bear."""
    best = best_rate(records)
    budget = int(best["steps"].max())
    wide = best.pivot(index="seed", columns=["model", "inputs"], values=["steps_to_target", "largest_stable_rate"])
    savings = []
    for model in MODELS:
        steps = wide["steps_to_target"][model]
        ratio = steps_ratio(steps["raw"], steps["standardized"], budget)
        savings.append(f"{ratio:.1f} for the {model} model")
    yield Finding(
        f"Steps to the target with raw inputs over those with standardized ones: {', '.join(savings)}; "
        f"n = {len(wide)} paired seeds.",
        "steps",
    )
    for model in MODELS:
        steps = wide["steps_to_target"][model]
        parts = [f"{inputs} {restricted_mean(steps[inputs], budget):.0f}" for inputs in ARMS]
        yield f"Steps of the {model} model to the target at its best rate: {', '.join(parts)}."
    # The largest of all rates may not be the largest stable one; where none of them was, that one is smaller.
    rates = wide["largest_stable_rate"].replace(RATES[-1], np.inf).fillna(0.0)
    parts = []
    for model in MODELS:
        standardized, raw = (rates[model, inputs] for inputs in ("standardized", "raw"))
        ratio = censored_ratio(standardized, raw, lowest=RATES[0], highest=RATES[-1])
        parts.append(f"{ratio:.1f} for the {model} model")
    yield (
        f"Standardized inputs multiply the largest stable learning rate by {' and '.join(parts)}, of rates a factor of "
        f"{RATES[1] / RATES[0]:.1f} apart; n = {len(rates)} paired seeds."
    )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Steps against the condition number, for both models."""
    best = best_rate(records)
    budget = int(best["steps"].max())
    title = (
        f"Steps to the target on badly scaled data, at the best rate: a dot for each of {best['seed'].nunique()} seeds"
    )
    figure, axes = plots.panels(1, 2, title=title, height=3.8, sharex=True, sharey=True)
    for panel, model in zip(axes, MODELS, strict=True):
        for color, marker, inputs in zip(plots.CYCLE, "os^D", ARMS, strict=False):
            cell = best[(best["model"] == model) & (best["inputs"] == inputs)]
            reached = cell[np.isfinite(cell["steps_to_target"])]
            panel.plot(reached["condition_number"], reached["steps_to_target"], marker, color=color, label=inputs)
            censored = cell[~np.isfinite(cell["steps_to_target"])]
            panel.plot(censored["condition_number"], [budget] * len(censored), marker, color=color, mfc="none", ms=8)
        panel.set(xscale="log", yscale="log", ylim=(1, budget * 2))
        plots.level(panel, budget, "budget (open: not reached)")
        plots.label(
            panel,
            x="condition number of the inputs",
            y="steps to target" if model == "linear" else "",
            title=f"{model} model",
        )
    linear = best[(best["model"] == "linear") & np.isfinite(best["steps_to_target"])]
    if len(linear):
        at = np.array([1, best["condition_number"].max()])
        slope = float(np.exp(np.log(linear["steps_to_target"] / linear["condition_number"]).median()))
        axes[0].plot(at, slope * at, ls=":", lw=1.2, color=plots.INK, label="proportional, fitted")
    axes[0].legend(loc="upper left", bbox_to_anchor=(0.0, 0.9))
    return {"steps": figure}
