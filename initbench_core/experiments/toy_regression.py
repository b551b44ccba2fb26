"""Toy regression: too large, too small, normalized - and the cells between.

Question: what do the scale of the initial weights and batch normalization each do to plain gradient descent?
y = 3x + noise on 1,000 points, an MLP 1-128-128-128-1 with ReLU, full-batch SGD at a rate of 0.003.

The notebook this grows from trained three networks: weights of std 10 (NaN at every print), std 0.01 (10.2456 to
10.2452) and std 1 with BatchNorm (1.0121 to 0.9935), and concluded that normalization mends initialization. That is
confounded: the normalized arm has another scale than the others. The `notebook` arms here repeat it with its seed and
its order of random draws; the `factorial` arms fill in the cells it left out, with a held-out set, which it lacked.

Expected: std 10 diverges at the second step, with BatchNorm too, for the last layer is not normalized. Std 0.01 stalls
at the variance of y: it is the constant predictor. Xavier and Kaiming reach the least-squares level without BatchNorm.
A training loss below that level is overfitting: the held-out loss does not follow.
Source: Glorot & Bengio 2010; He et al. 2015; Ioffe & Szegedy 2015.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from initbench_core.errors import check_choice
from initbench_core.networks.initializers import initialize_layers_
from initbench_core.networks.models import NORM_PLACES, mlp
from initbench_core.presentation import plots
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.maps import outcome_map
from initbench_core.presentation.statistics import spread, wilson
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import per_trial, tidy
from initbench_core.records.schema import Emission, Record, scalar
from initbench_core.training.data import Data, line
from initbench_core.training.evaluation import LINE_TARGET, constant_loss, least_squares_loss
from initbench_core.training.setting import Setting
from initbench_core.training.train import Recipe, train

NOTEBOOK_SEED = 42
# In the notebook's order of construction, which fixes the random draws of each.
NOTEBOOK = {"large": ("normal(10)", "none"), "small": ("normal(0.01)", "none"), "batch_norm": ("normal(1)", "before")}
INITS = ("normal(0.01)", "normal(0.1)", "normal(1)", "normal(10)", "xavier_normal", "kaiming_normal", "torch_default")


@dataclass(frozen=True)
class Config:
    """One training."""

    arm: str  # an arm of NOTEBOOK, or "factorial"
    init: str
    norm: str  # BatchNorm: none, before or after the ReLU
    steps: int
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """The notebook's three trainings, then every initializer with every place of the normalization."""
    notebook_steps = setting.pick(smoke=40, quick=2000, full=2000)
    for arm, (init, norm) in NOTEBOOK.items():
        yield Config(arm, init, norm, notebook_steps, NOTEBOOK_SEED)
    steps = setting.pick(smoke=20, quick=200, full=2000)
    for seed in range(setting.seeds):
        for init in INITS:
            for norm in NORM_PLACES:
                yield Config("factorial", init, norm, steps, seed)


def _network(init: str, norm: str) -> nn.Module:
    model = mlp(1, 128, 3, 1, norm=norm)
    initialize_layers_(model, init)
    return model


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Train one network; the held-out points come from a generator of their own."""
    check_choice("arm", config.arm, [*NOTEBOOK, "factorial"])
    torch.manual_seed(config.seed)
    points = line(1000)
    if config.arm == "factorial":
        model = _network(config.init, config.norm)
    else:
        # All three are built, in order, as the notebook does: training itself draws nothing.
        model = {arm: _network(*cell) for arm, cell in NOTEBOOK.items()}[config.arm]
    held_out = line(1000, torch.Generator().manual_seed(10_000 + config.seed))
    level = least_squares_loss(points)
    yield scalar("least_squares_loss", "squared error", level)
    yield scalar("constant_loss", "squared error", constant_loss(points.y))
    recipe = Recipe(
        epochs=config.steps,
        lr=0.003,
        target=LINE_TARGET * level,
        target_metric="train_loss",
        record_every=max(1, config.steps // 200),
        evaluate_every=max(1, config.steps // 20),
        after_divergence=1,
    )
    data = Data("line", points, held_out, held_out)
    yield from train(model, data, recipe, seed=config.seed, setting=setting)


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per cell: outcomes, losses (mean over seeds), first bad step."""
    rows = []
    for (arm, init, norm), cell in per_trial(records).groupby(["arm", "init", "norm"], sort=False):
        rows.append(
            {
                "arm": arm,
                "init": init,
                "BatchNorm": norm,
                "n": len(cell),
                "outcomes": ", ".join(sorted(set(cell["outcome"]))),
                "train loss": cell["final_train_loss"].mean(),
                "held-out loss": cell["test_loss"].mean(),
                "least squares": cell["least_squares_loss"].mean(),
                "first bad step": cell["first_bad_step"].min(),
            }
        )
    return pd.DataFrame(rows)


def _cell(records: Sequence[Record], init: str, norm: str) -> pd.DataFrame:
    frame = per_trial(records)
    return frame[(frame["arm"] == "factorial") & (frame["init"] == init) & (frame["norm"] == norm)]


def findings(records: Sequence[Record]) -> Iterator[str]:
    """The notebook's lesson beside the cells that it left out."""
    plain, large = _cell(records, "kaiming_normal", "none"), _cell(records, "normal(10)", "before")
    yield Finding(
        f"Kaiming without BatchNorm: {_trained(plain)} trained, held-out loss {spread(plain['test_loss'])}. Std 10 "
        f"with BatchNorm: {(large['outcome'] == 'diverged').sum()} of {len(large)} diverged.",
        "factorial",
    )
    notebook = per_trial(records).set_index("arm")
    std_10, std_001, normalized = (notebook.loc[arm] for arm in NOTEBOOK)
    yield Finding(
        f"The notebook's training with std 10 {std_10['outcome']} at step {std_10['first_bad_step']:.0f}, the one with "
        f"std 0.01 ends at {std_001['final_train_loss']:.2f} (constant predictor {std_001['constant_loss']:.2f}), the "
        f"one with std 1 and BatchNorm at {normalized['final_train_loss']:.2f} (least squares "
        f"{normalized['least_squares_loss']:.2f}).",
        "notebook",
    )
    small = _cell(records, "normal(0.01)", "none")
    yield (
        f"Std 0.01 without BatchNorm ends at {spread(small['final_train_loss'])}; the constant predictor has "
        f"{small['constant_loss'].mean():.3f}."
    )
    before, after = _cell(records, "kaiming_normal", "before"), _cell(records, "kaiming_normal", "after")
    yield Finding(
        f"Kaiming with BatchNorm, held-out loss: {spread(before['test_loss'])} before the ReLU, "
        f"{spread(after['test_loss'])} after it; {_trained(before)} and {_trained(after)} trained.",
        "losses",
    )


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """Scale and normalization are two questions: BatchNorm does not mend every scale."""
    where = "an MLP of 3 x 128 on y = 3x + noise (1,000 training points): fraction of seeds"
    for chapter, init, norm, outcome, what in (
        ("initialization", "kaiming_normal", "none", "trained", "Kaiming's weights train without BatchNorm"),
        ("initialization", "normal(0.01)", "none", "stalled", "Weights of std 0.01 stall without BatchNorm"),
        (
            "batch_norm_does_not_help",
            "normal(10)",
            "before",
            "diverged",
            "Weights of std 10 diverge with BatchNorm too",
        ),
    ):
        cell = _cell(records, init, norm)
        measured = wilson((cell["outcome"] == outcome).sum(), len(cell))
        yield Claim(chapter, f"{what}, {where}", measured, len(cell), form=".0%")


def _trained(cell: pd.DataFrame) -> str:
    return f"{(cell['outcome'] == 'trained').sum()} of {len(cell)}"


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """The notebook's three curves, the map of the factorial, and its losses."""
    return {
        "notebook": _draw_notebook(records),
        "factorial": _draw_factorial(records),
        "losses": _draw_losses(records),
    }


def _draw_notebook(records: Sequence[Record]) -> Figure:
    frame = tidy([r for r in records if r.config["arm"] != "factorial"])
    figure, axes = plots.panels(1, 1, title="The notebook's three trainings, with the levels it left out", height=3.8)
    names = {"large": "std 10", "small": "std 0.01", "batch_norm": "std 1 + BatchNorm"}
    for color, (arm, trial) in zip(plots.CYCLE, frame.groupby("arm", sort=False), strict=False):
        curve = trial[trial["metric"] == "train_loss"]
        if trial["outcome"].iloc[0] == "diverged":
            step = int(trial["first_bad_step"].iloc[0])
            plots.mark_diverged(axes, step, f"{names[str(arm)]}: {curve['value'].iloc[0]:.1e}, then inf at step {step}")
        else:
            axes.plot(curve["step"], curve["value"], label=names[str(arm)], color=color)
    levels = frame[frame["metric"].isin(["least_squares_loss", "constant_loss"])].groupby("metric")["value"].first()
    plots.level(axes, levels["constant_loss"], "constant predictor")
    plots.level(axes, levels["least_squares_loss"], "least squares")
    axes.set(xscale="log", yscale="log", ylim=(0.8, 30))
    plots.label(axes, x="step", y="training loss (squared error)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left")
    return figure


def _draw_factorial(records: Sequence[Record]) -> Figure:
    frame = per_trial(records)
    frame = frame[frame["arm"] == "factorial"]
    n = frame["seed"].nunique()
    figure, axes = plots.panels(
        1, 1, title=f"How each initialization ends, by place of BatchNorm: y = 3x + noise, {n} seeds", height=4.2
    )
    cells = {(i, p): list(_cell(records, i, p)["outcome"]) for i in INITS for p in NORM_PLACES}
    text = {}
    for init, norm in cells:
        losses = _cell(records, init, norm)["test_loss"].dropna()
        text[init, norm] = f"{losses.mean():.3f}" if len(losses) else "no finite loss"
    outcome_map(axes, cells, INITS, NORM_PLACES, text)
    plots.label(axes, x="place of BatchNorm (in the cell: mean held-out loss)", y="initial weights")
    plots.outcome_legend(axes, frame["outcome"])
    return figure


def _draw_losses(records: Sequence[Record]) -> Figure:
    frame = per_trial(records)
    frame = frame[frame["arm"] == "factorial"]
    figure, axes = plots.panels(
        1,
        3,
        title=f"Final loss of {frame['seed'].nunique()} seeds each: filled in training, open held out",
        height=4.2,
        sharey=True,
    )
    for panel, norm in zip(axes, NORM_PLACES, strict=True):
        cells = frame[frame["norm"] == norm]
        at = cells["init"].map(INITS.index) + (cells["seed"] / max(1, cells["seed"].max()) - 0.5) * 0.5
        plots.mark_outcomes(panel, at - 0.08, cells["outcome"], cells["final_train_loss"])
        plots.mark_outcomes(panel, at + 0.08, cells["outcome"], cells["test_loss"], filled=False)
        is_last = norm == NORM_PLACES[-1]
        plots.level(panel, cells["constant_loss"].mean(), "constant predictor" if is_last else "", outside=True)
        plots.level(panel, cells["least_squares_loss"].mean(), "least squares" if is_last else "", outside=True)
        panel.set(yscale="log", ylim=(0.7, 30))
        panel.set_xticks(range(len(INITS)), INITS, rotation=60, ha="right")
        plots.label(panel, x="", y="" if norm != NORM_PLACES[0] else "squared error", title=f"BatchNorm: {norm}")
    plots.outcome_legend(axes[-1], frame["outcome"], top=0.6)
    return figure
