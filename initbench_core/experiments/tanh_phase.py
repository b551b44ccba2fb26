"""Trainable depth of tanh networks against the variance of their weights.

Question: how deep may a tanh network be for each scale of its initial weights, and does the theory of signal
propagation say so in advance?

Weights from N(0, sigma_w^2 / fan_in), biases from N(0, 0.05), no normalization; SGD with momentum 0.9 at a small rate
on digits, a fixed number of steps. In wide networks information about the input fades over xi = 1 / |ln chi| layers,
where chi is the factor per layer of a gradient's second moment: below 1 gradients vanish (ordered phase, small
weights), above 1 they explode (chaotic phase). At the edge of chaos, sigma_w^2 = 1.76 for these biases, chi is 1 and xi
infinite. A training of finite length at finite width ends at some depth there too.

Expected: networks train down to a depth of about 6 xi, the paper's rule, deepest near the edge of chaos.
Source: Schoenholz et al. 2017, "Deep information propagation", figure 5; Poole et al. 2016.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from initbench_core.networks.models import mlp, mlp_weights
from initbench_core.networks.theory import critical_weight_variance, depth_scale
from initbench_core.presentation import maps, plots
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.signs import signs
from initbench_core.presentation.statistics import Interval, interval
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import per_trial
from initbench_core.records.schema import Emission, Record
from initbench_core.training.data import Data, described
from initbench_core.training.probing import look
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_cell
from initbench_core.training.train import Recipe, train
from initbench_kernels import Fill, fill_

SIGMA_B2 = 0.05
# The paper's rule: trainable to about this many depth scales.
DEPTH_SCALES = 6
# A network counts as trained where it gets this far on its own training images within the steps.
TARGET = 0.5


@dataclass(frozen=True)
class Config:
    """One training."""

    data: str
    sigma_w2: float  # variance of a weight times fan_in
    depth: int  # hidden layers
    width: int
    epochs: int
    lr: float
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """A coarse grid of variances and depths; in the full profile the paper's width and a fine one."""
    variances = setting.pick(
        smoke=(0.5, 1.75),
        quick=(0.5, 1.0, 1.375, 1.75, 2.5, 4.0),
        full=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0),
    )
    depths = setting.pick(smoke=(2, 4), quick=(4, 8, 16, 32, 50), full=(5, 10, 20, 40, 80, 120, 160, 240, 300))
    width, epochs = setting.pick(smoke=(16, 1), quick=(100, 1), full=(300, 20))
    for seed in range(setting.seeds):
        for sigma_w2 in variances:
            for depth in depths:
                yield Config(setting.data.images(), sigma_w2, depth, width, epochs, 0.003, seed)


def prepare(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
    """Draw the network; the same seed gives every variance the same weights, scaled."""
    data = setting.data.load(config.data)
    inputs = data.train.x[0].numel()
    model = nn.Sequential(nn.Flatten(), *mlp(inputs, config.width, config.depth, 10, activation="tanh"))
    rows = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            std = math.sqrt(config.sigma_w2 / layer.in_features)
            rows.append(Fill(layer.weight, "normal", f"{name}.weight", std=std))
            rows.append(Fill(layer.bias, "normal", f"{name}.bias", std=math.sqrt(SIGMA_B2)))
    fill_(rows, seed=config.seed)
    recipe = Recipe(
        epochs=config.epochs,
        lr=config.lr,
        momentum=0.9,
        batch_size=32,
        target=TARGET,
        target_metric="final_train_accuracy",
        record_every=25,
        evaluate_every=config.epochs,
        model_metrics=("update_ratio",),
    )
    return model, data, recipe


def weights(config: Config) -> int:
    """Count the weights of a network."""
    return mlp_weights(784, config.width, config.depth, 10)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Look at one network, then train it."""
    model, data, recipe = prepare(config, setting)
    yield from look([model], data, recipe, norm="none")[0]
    yield from train(model, data, recipe, seed=config.seed, setting=setting)


def run_together(configs: Sequence[Config], setting: Setting) -> list[list[Emission]]:
    """Look at the networks of several seeds, then train them at once."""
    return train_cell(prepare, configs, setting, partial(look, norm="none"))


def _accuracy(records: Sequence[Record]) -> pd.DataFrame:
    """Training accuracy by variance, depth and seed; 0 where the training diverged."""
    frame = per_trial(records)
    return frame.assign(accuracy=frame["final_train_accuracy"].fillna(0.0))


def _typical(frame: pd.DataFrame) -> pd.Series:
    """Return the median accuracy over seeds by depth and variance: whether most seeds train."""
    return frame.groupby(["depth", "sigma_w2"])["accuracy"].median()


def trained_depth(accuracy: pd.Series) -> int:
    """Return the greatest depth (the index) up to which every network of the grid trained; 0 for none."""
    # Once a depth fails, greater ones do not count.
    met = (accuracy.sort_index() >= TARGET).cummin()
    return int(met.index[met].max()) if met.any() else 0


def _of_seeds(cell: pd.DataFrame) -> pd.Series:
    """Return the trained depth of each seed at one variance."""
    return cell.set_index("depth").groupby("seed")["accuracy"].apply(trained_depth)


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per variance: trainable depth, theory's depth scale, training accuracy at each depth."""
    rows, seen = [], signs(records, "sigma_w2")
    frame = _accuracy(records)
    typical = _typical(frame)
    for sigma_w2, cell in frame.groupby("sigma_w2"):
        xi = depth_scale(float(sigma_w2), SIGMA_B2)  # type: ignore[arg-type]
        reached, medians = _of_seeds(cell), typical.xs(sigma_w2, level="sigma_w2")
        row = {
            "sigma_w^2": sigma_w2,
            "trained depth of most seeds": trained_depth(medians),
            "lowest": int(reached.min()),
            "highest": int(reached.max()),
            "theory xi (layers)": xi,
            "6 xi (layers)": DEPTH_SCALES * xi,
        }
        row |= {f"median training accuracy at {depth}": accuracy for depth, accuracy in medians.items()}
        rows.append({**row, "n": len(reached)} | seen[(sigma_w2,)])
    return pd.DataFrame(rows)


def agreement(records: Sequence[Record]) -> tuple[int, int]:
    """Return how many cells the rule gets right, and how many there are: most seeds trained if and only if above."""
    cells = _typical(_accuracy(records)).reset_index()
    limit = DEPTH_SCALES * cells["sigma_w2"].map(lambda sigma_w2: depth_scale(sigma_w2, SIGMA_B2))
    right = (cells["accuracy"] >= TARGET) == (cells["depth"] <= limit)
    return int(right.sum()), len(right)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Trainable depth at the ends and the best variance, and how far the rule holds."""
    rows = table(records).set_index("sigma_w^2")
    deepest = int(_accuracy(records)["depth"].max())
    rule = [f"{limit:.0f}" if limit <= deepest else f"over {deepest}" for limit in rows["6 xi (layers)"]]
    parts = [
        f"{reached:.0f} at {sigma_w2:g} (6 xi: {limit})"
        for sigma_w2, reached, limit in zip(rows.index, rows["trained depth of most seeds"], rule, strict=True)
    ]
    data = described(str(records[0].config["data"]))
    right, of = agreement(records)
    best = rows["trained depth of most seeds"].max()
    where = ", ".join(f"{sigma_w2:g}" for sigma_w2 in rows.index[rows["trained depth of most seeds"] == best])
    yield Finding(
        f"Theory's rule, that networks up to {DEPTH_SCALES:g} times its depth scale xi train, is right in {right} of "
        f"{of} cells (trained: a median training accuracy of {TARGET:g}). The deepest that train on {data}, {best:.0f} "
        f"layers, do at sigma_w^2 = {where}; theory puts the best, the edge of chaos, at "
        f"{critical_weight_variance(SIGMA_B2):.2f}.",
        "phase",
    )
    yield (
        f"Deepest tanh network of a grid up to {deepest} layers that trains on {data} for most seeds, by sigma_w^2: "
        f"{', '.join(parts)}."
    )


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """How deep the network nearest the edge of chaos trains, beside the one with the smallest weights."""
    frame = _accuracy(records)
    critical, deepest = critical_weight_variance(SIGMA_B2), int(frame["depth"].max())
    data = described(str(records[0].config["data"]))
    for sigma_w2 in (frame["sigma_w2"].min(), min(frame["sigma_w2"].unique(), key=lambda s: abs(s - critical))):
        reached = _of_seeds(frame[frame["sigma_w2"] == sigma_w2])
        rule = DEPTH_SCALES * depth_scale(float(sigma_w2), SIGMA_B2)
        yield Claim(
            "initialization",
            f"Deepest tanh network with sigma_w^2 = {sigma_w2:g} that trains on {data}, of a grid of depths: layers, "
            "mean over seeds",
            _at_least_zero(interval(reached)),
            len(reached),
            f"about 6 xi = {rule:.0f}{', beyond the grid' * (rule > deepest)} (Schoenholz et al. 2017)",
        )


def _at_least_zero(depth: Interval) -> Interval:
    return depth._replace(low=max(0.0, depth.low)) if math.isfinite(depth.low) else depth


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Training accuracy over variance and depth, with theory's line."""
    frame = _accuracy(records)
    variances, depths = sorted(frame["sigma_w2"].unique()), sorted(frame["depth"].unique())
    cells = _typical(frame)
    data, width, n = described(frame["data"].iloc[0]), frame["width"].iloc[0], frame["seed"].nunique()
    figure, axes = plots.panels(
        1, 1, title=f"Trainable depth of tanh networks, {width} wide: {data}, {n} seeds", height=4.2
    )
    values = {(depth, sigma_w2): float(cells[depth, sigma_w2]) for depth in depths for sigma_w2 in variances}
    text = {key: f"{value:.2f}" for key, value in values.items()}
    maps.value_map(axes, values, depths, variances, text, limits=(0.0, 1.0), log=False)
    # A cell is one unit wide and high; between the middles of cells, variance and log depth run evenly.
    middle = 0.5 * maps.WIDTH
    at = np.linspace(variances[0], variances[-1], 400)
    limit = np.array([DEPTH_SCALES * depth_scale(s, SIGMA_B2) for s in at])
    rows = np.interp(np.log(limit), np.log(depths), np.arange(len(depths)) + middle, left=np.nan, right=np.nan)
    columns = np.interp(at, variances, np.arange(len(variances)) + middle)
    axes.plot(columns, rows, color="white", lw=5, zorder=1.5)
    plots.theory(axes, columns, rows, "theory: 6 depth scales", color="#bd1f01", linewidth=2.4, zorder=1.6)
    where = "sigma_w^2, variance of a weight times fan_in"
    plots.label(axes, x=where, y="hidden layers", title="training accuracy, median over seeds")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return {"phase": figure}
