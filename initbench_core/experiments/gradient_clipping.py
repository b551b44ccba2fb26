"""Gradient clipping: by value and by norm, where training diverges without it.

Question: which divergences does clipping cure, and what does it cost?

The lecture this grows from lists clipping as an "eventual hack" and clips each entry to +-max. That changes the
gradient's direction; clipping by the norm of all gradients does not. Both are measured on the toy regression in two
settings that diverge: weights too large (std 0.5) at a rate of 0.003, and good weights (Kaiming) at a rate of 0.3.

Expected: without clipping both diverge within a few steps. With it the step is at most rate times bound, so each rate
has its own right bound: too low does not arrive in the steps there are, too high bounces or diverges. Clipping by value
turns the first gradient by a measurable angle, clipping by norm does not.
Source: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", section 3.2.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from initbench_core.errors import check_choice, choose
from initbench_core.networks.initializers import initialize_layers_
from initbench_core.networks.models import mlp
from initbench_core.presentation import plots
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.maps import outcome_map
from initbench_core.records.frame import per_trial
from initbench_core.records.schema import Emission, Record, scalar
from initbench_core.training.data import Data, line
from initbench_core.training.evaluation import LINE_TARGET, least_squares_loss, loss_of
from initbench_core.training.setting import Setting
from initbench_core.training.train import Recipe, train

CASES = {"large weights": ("normal(0.5)", 0.003), "large rate": ("kaiming_normal", 0.3)}
CLIPS = (("none", math.inf), *(("value", b) for b in (0.01, 0.1, 1.0)), *(("norm", b) for b in (0.1, 1.0, 10.0)))


@dataclass(frozen=True)
class Config:
    """One training."""

    case: str
    clip: str  # none, value or norm
    bound: float | None
    steps: int
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Both cases with every bound."""
    steps = setting.pick(smoke=20, quick=200, full=1000)
    for seed in range(setting.seeds):
        for case in CASES:
            for clip, bound in CLIPS:
                yield Config(case, clip, bound if math.isfinite(bound) else None, steps, seed)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Measure how clipping turns the first gradient, then train."""
    init, lr = choose("case", config.case, CASES)
    check_choice("kind of clipping", config.clip, dict(CLIPS))
    points = line(1000)
    model = mlp(1, 128, 3, 1)
    initialize_layers_(model, init)
    yield scalar("first_direction_cosine", "1", _direction_kept(model, points.x, points.y, config))
    level = least_squares_loss(points)
    held_out = line(1000)
    recipe = Recipe(
        epochs=config.steps,
        lr=lr,
        clip_value=config.bound if config.clip == "value" else None,
        clip_norm=config.bound if config.clip == "norm" else None,
        target=LINE_TARGET * level,
        target_metric="train_loss",
        record_every=max(1, config.steps // 50),
        evaluate_every=config.steps,
        model_metrics=("gradient_norm",),
    )
    yield from train(model, Data("line", points, held_out, held_out), recipe, seed=config.seed, setting=setting)


def _direction_kept(model: nn.Module, x: torch.Tensor, y: torch.Tensor, config: Config) -> float:
    """Cosine between the first gradient and what clipping makes of it."""
    loss_of(model(x), y).backward()
    raw = _flat_gradient(model)
    if config.clip == "value" and config.bound is not None:
        nn.utils.clip_grad_value_(model.parameters(), config.bound)
    elif config.clip == "norm" and config.bound is not None:
        nn.utils.clip_grad_norm_(model.parameters(), config.bound)
    clipped = _flat_gradient(model)
    model.zero_grad()
    return float(torch.dot(raw, clipped) / (raw.norm() * clipped.norm()))


def _flat_gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()


def _name(clip: str, bound: float) -> str:
    return "no clipping" if clip == "none" else f"{clip} {bound:g}"


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per case and clipping."""
    frame = per_trial(records)
    rows = []
    for case in CASES:
        for clip, bound in CLIPS:
            cell = _cell(frame, case, clip, bound)
            rows.append(
                {
                    "case": case,
                    "clipping": _name(clip, bound),
                    "trained": f"{(cell['outcome'] == 'trained').sum()} of {len(cell)}",
                    "diverged": f"{(cell['outcome'] == 'diverged').sum()} of {len(cell)}",
                    "first bad step": cell["first_bad_step"].min(),
                    "final loss, median": cell["final_train_loss"].median(),
                    "direction kept (cosine)": cell["first_direction_cosine"].mean(),
                }
            )
    return pd.DataFrame(rows)


def _cell(frame: pd.DataFrame, case: str, clip: str, bound: float) -> pd.DataFrame:
    chosen = frame[(frame["case"] == case) & (frame["clip"] == clip)]
    return chosen if clip == "none" else chosen[chosen["bound"] == bound]


def findings(records: Sequence[Record]) -> Iterator[str]:
    """What diverges, what trains, and how far the direction turns."""
    rows = table(records).set_index(["case", "clipping"])
    for case in CASES:
        trained = rows["trained"][case]
        clips = [_name(*clip) for clip in CLIPS[1:]]
        some = [f"{trained[clip]} at {clip}" for clip in clips if not trained[clip].startswith("0 ")]
        none = [clip for clip in clips if trained[clip].startswith("0 ")]
        yield Finding(
            f"{case.capitalize()}: without clipping {rows['diverged'][case]['no clipping']} diverge; trained "
            f"{', '.join([*some, 'none at ' + ', '.join(none)] if none else some)}.",
            "outcomes",
        )
    cosine = rows["direction kept (cosine)"]["large weights"]
    yield (
        f"Cosine between the first gradient and what clipping makes of it (large weights): {cosine['norm 1']:.3f} by "
        f"norm 1, and {cosine['value 0.01']:.2f}, {cosine['value 0.1']:.2f}, {cosine['value 1']:.2f} by value 0.01, "
        f"0.1, 1."
    )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """The map of outcomes."""
    frame = per_trial(records)
    steps, n = int(frame["steps"].max()), frame["seed"].nunique()
    figure, axes = plots.panels(
        1,
        1,
        title=f"Clipping in two trainings that diverge without it: y = 3x + noise, {steps} steps, {n} seeds",
        height=2.6,
    )
    columns = [_name(*clip) for clip in CLIPS]
    cells, text = {}, {}
    for case in CASES:
        for clip, bound in CLIPS:
            cell = _cell(frame, case, clip, bound)
            cells[case, _name(clip, bound)] = list(cell["outcome"])
            loss = cell["final_train_loss"].median()
            text[case, _name(clip, bound)] = "no finite loss" if math.isnan(loss) else f"{loss:.3g}"
    outcome_map(axes, cells, list(CASES), columns, text)
    plots.label(axes, x="clipping by value or by norm (in the cell: median final training loss)", y="")
    plots.outcome_legend(axes, frame["outcome"])
    return {"outcomes": figure}
