"""Initialization x BatchNorm x depth: which plain networks train, and what theory says of them.

Question: down to which depth does the initialization alone decide whether a plain ReLU network trains, and what does
batch normalization change?

MLPs of 100 units a layer on digits, seven initializers, BatchNorm none, before and after the ReLU. Every network is
looked at as it starts, in float64: second moments of the pre-activations and of the loss's gradients by layer, the
factor per layer fitted to them, and mean-field theory for its own weights beside it. Then it is trained: SGD at 0.01
with momentum 0.9, batches of 64, one recipe for all, no schedule, no clipping; the target is a validation accuracy of
75%, scored once an epoch. The budget is short: it asks what starts, not what is best in the end. Away from depth 20
the quick profile stops a training at its target and leaves cells out; at depth 1000 it only looks.

Expected: at depth 20 without BatchNorm Kaiming and orthogonal weights (with the ReLU's gain) and LSUV train, Xavier
partly (1/2 per layer), torch's default (1/6 per layer) and N(0.01) stall, N(1) diverges. BatchNorm makes the scale of
the hidden weights irrelevant forward and rescues the default; the last layer is not normalized, so that N(1) stays
lost. Its gradients grow by pi / (pi - 1) = 1.467 per layer whatever the weights: 2e8 in the second moment over 50
layers, where BatchNorm helps no more.
Source: Glorot & Bengio 2010; He et al. 2015, section 2.2; Ioffe & Szegedy 2015; Mishkin & Matas 2016; Yang et al. 2019.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from initbench_core.networks.initialize import initialize_
from initbench_core.networks.models import NORM_PLACES, mlp
from initbench_core.presentation.depth_study import PLACES, curves, outcome_maps, propagation, step_maps
from initbench_core.presentation.statistics import bootstrap_ratio, interval, restricted_mean, separates, wilson
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import per_trial, tidy
from initbench_core.records.schema import Emission, Measurement, Record
from initbench_core.training.data import TRAINING_IMAGES, Data, Split, described
from initbench_core.training.probing import probe_at_init
from initbench_core.training.recipe import Recipe
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_cell
from initbench_core.training.train import train

INITS = ("torch_default", "xavier_normal", "kaiming_normal", "orthogonal", "lsuv", "normal(0.01)", "normal(1)")
# What the deep cells of the quick profile are left with.
FEW = [("kaiming_normal", "none"), ("kaiming_normal", "before"), ("orthogonal", "none"), ("orthogonal", "before")]
TARGET = 0.75
BATCH = 64
FOCUS = 20  # the depth of the curves


@dataclass(frozen=True)
class Config:
    """One network."""

    data: str
    init: str
    norm: str  # place of BatchNorm: none, before or after the ReLU
    depth: int
    epochs: int  # of training; 0: it is only looked at
    stops: bool  # whether training ends at the target
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """The profile's depths, each with its budget; depth 1000 last."""
    everything = [(init, norm) for init in INITS for norm in NORM_PLACES]
    no_lsuv = [cell for cell in everything if cell[0] != "lsuv"]  # its passes grow with the square of the depth
    depths: list[tuple[int, int, bool, list[tuple[str, str]]]] = setting.pick(
        smoke=[(3, 1, False, [*FEW, ("normal(1)", "none")]), (60, 0, True, FEW[:2])],
        quick=[(4, 5, True, everything), (FOCUS, 5, False, everything), (50, 5, True, FEW), (1000, 0, True, FEW[:2])],
        full=[*((d, 30, False, everything) for d in (2, 4, 8, FOCUS, 50, 100)), (1000, 2, False, no_lsuv)],
    )
    for depth, epochs, stops, cells in depths:
        for init, norm in cells:
            for seed in range(setting.seeds):
                yield Config(setting.data.images(), init, norm, depth, epochs, stops, seed)


def prepare(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
    """Return the network with its weights, the images and the recipe."""
    data = setting.data.load(config.data)
    model = nn.Sequential(nn.Flatten(), *mlp(784, 100, config.depth, 10, norm=config.norm))
    options: dict[str, Any] = {"batch": data.train.x[:256]} if config.init == "lsuv" else {}
    initialize_(model, config.init, seed=config.seed, **options)
    recipe = Recipe(
        epochs=config.epochs,
        lr=0.01,
        momentum=0.9,
        batch_size=BATCH,
        target=TARGET,
        target_metric="validation_accuracy",
        stop_at_target=config.stops,
        record_every=5,
    )
    return model, data, recipe


def _look(model: nn.Module, data: Data, config: Config) -> Iterator[Emission]:
    """Probe the network on training images; of a very deep one some 50 layers are kept."""
    batch = Split(data.train.x[:BATCH], data.train.y[:BATCH])
    step = math.ceil(config.depth / 50)
    for found in probe_at_init(model, batch, norm=config.norm):
        axes = {axis: list(at)[::step] for axis, at in found.axes.items()}
        yield Measurement(found.metric, found.unit, list(found.values)[::step] if axes else found.values, axes)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Look at one network, then train it."""
    model, data, recipe = prepare(config, setting)
    yield from _look(model, data, config)
    if config.epochs:
        yield from train(model, data, recipe, seed=config.seed, setting=setting)


def run_together(configs: Sequence[Config], setting: Setting) -> Sequence[Iterable[Emission]]:
    """Look at each network of a cell, then train all of them at once."""
    looks = [list(_look(*prepare(config, setting)[:2], config)) for config in configs]
    trained: Sequence[Iterable[Emission]] = [()] * len(configs)
    if configs[0].epochs:
        trained = train_cell(prepare, configs, setting)
    return [[*look, *emissions] for look, emissions in zip(looks, trained, strict=True)]


Cells = dict[tuple[int, str, str], pd.DataFrame]


def _cells(records: Sequence[Record]) -> Cells:
    """The trials by depth, initializer and place of BatchNorm, sorted by seed, in the order of the grid."""
    groups = per_trial(records).sort_values("seed", kind="stable").groupby(["depth", "init", "norm"])
    found = {(int(depth), init, norm): cell for (depth, init, norm), cell in groups}  # type: ignore[call-overload]
    return {(d, i, n): found[d, i, n] for d in sorted({k[0] for k in found}) for i in INITS for n in NORM_PLACES
            if (d, i, n) in found}  # fmt: skip


def _trained(cells: Cells) -> Cells:
    """The cells that were not only looked at."""
    return {key: cell for key, cell in cells.items() if cell["epochs"].iloc[0]}


def _focus(cells: Cells) -> tuple[int, Cells]:
    """The depth that the findings are about, and its cells: FOCUS where it was run."""
    depths = [depth for depth, _, _ in _trained(cells)]
    focus = FOCUS if FOCUS in depths else max(depths)
    return focus, {key: cell for key, cell in cells.items() if key[0] == focus}


def _budget(cell: pd.DataFrame) -> int:
    first = cell.iloc[0]
    return int(first["epochs"]) * math.ceil(TRAINING_IMAGES[first["data"]] / BATCH)


def _reached(cell: pd.DataFrame) -> int:
    return int((cell["outcome"] == "trained").sum())


def _factor(cell: pd.DataFrame, way: str) -> tuple[float, float]:
    """Return the measured factor per layer and theory's, geometric means over seeds."""
    measured = interval(cell[f"{way}_factor"], log=True).center
    return measured, measured / interval(cell[f"{way}_factor_ratio"], log=True).center


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per cell: outcome, steps, whether it differs from Kaiming without BatchNorm, and factors beside theory."""
    cells, rows = _cells(records), []
    for (depth, init, norm), cell in cells.items():
        row = {"depth": depth, "initializer": init, "BatchNorm": norm, "n": len(cell)}
        if cell["epochs"].iloc[0]:
            reference = cells[depth, "kaiming_normal", "none"]["steps_to_target"]
            ratio = bootstrap_ratio(cell["steps_to_target"], reference, budget=_budget(cell))
            row |= {
                "outcomes": ", ".join(sorted(set(cell["outcome"]))),
                "trained (95% Wilson)": f"{wilson(_reached(cell), len(cell)):.2f}",
                "steps to 75%": f"{restricted_mean(cell['steps_to_target'], _budget(cell)):.0f}",
                "times Kaiming's without": ratio.center,
                "separated": "yes" if separates(ratio, 1.0) else "no",
                "best validation accuracy": cell["best_validation_accuracy"].mean(),
            }
        for way in ("forward", "backward"):
            row[f"{way} factor"], row[f"{way}, theory"] = _factor(cell, way)
        rows.append(row)
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """What trains at the depth in focus, whom BatchNorm rescues, the deepest networks, theory, and what is open."""
    cells = _cells(records)
    focus, here = _focus(cells)
    data = described(str(records[0].config["data"]))
    counts = {
        norm: ", ".join(f"{i} {_reached(c)}/{len(c)}" for (_, i, place), c in here.items() if place == norm)
        for norm in NORM_PLACES
    }
    yield (
        f"Seeds that reach {TARGET:.0%} at depth {focus} on {data}: "
        + "; ".join(f"{PLACES[norm]}: {text}" for norm, text in counts.items() if text)
        + "."
    )
    yield f"Against none, by Wilson's intervals, {_rescues(here)}."
    deep = max(depth for depth, _, _ in _trained(cells))
    parts = [
        f"{init}, {PLACES[norm]}: {_reached(cell)}/{len(cell)}, gradients x {_factor(cell, 'backward')[0]:.3f} per "
        f"layer (theory {_factor(cell, 'backward')[1]:.3f})"
        for (depth, init, norm), cell in cells.items()
        if depth == deep and (init, norm) in FEW
    ]
    yield f"At depth {deep}: {'; '.join(parts)}."
    ratios = {way: pd.concat([c[f"{way}_factor_ratio"] for c in here.values()]) for way in ("forward", "backward")}
    yield (
        f"Over all networks of depth {focus} the measured factor per layer is "
        + " and ".join(f"{r.min():.2f} to {r.max():.2f} times theory's {way}" for way, r in ratios.items())
        + " (theory: infinitely wide layers)."
    )
    rows = table(records)
    same = rows[(rows["depth"] == focus) & (rows["separated"] == "no")]
    names = [f"{r['initializer']} ({PLACES[r['BatchNorm']]})" for _, r in same.iterrows()]
    names.remove(f"kaiming_normal ({PLACES['none']})")
    yield f"In steps not separated from Kaiming without BatchNorm at depth {focus}: {', '.join(names) or 'none'}."


def _rescues(here: Cells) -> str:
    """Say for each place which initializers BatchNorm helps or harms, as far as Wilson's intervals are apart."""
    answers: dict[str, list[str]] = {"rescues": [], "harms": [], "leaves open": []}
    for (depth, init, norm), cell in here.items():
        if norm == "none" or (depth, init, "none") not in here:
            continue
        plain = here[depth, init, "none"]
        before, behind = (wilson(_reached(c), len(c)) for c in (plain, cell))
        answer = "rescues" if behind.low > before.high else "harms" if behind.high < before.low else "leaves open"
        answers[answer].append(f"{init} ({norm})")
    return "; ".join(f"BatchNorm {answer} {', '.join(names)}" for answer, names in answers.items() if names)


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """Each initializer at the depth in focus, with BatchNorm where that changes or fails to change its fate."""
    cells = _cells(records)
    focus, here = _focus(cells)
    where = f"{described(str(records[0].config['data']))}, depth {focus}"
    for (_, init, norm), cell in here.items():
        plain = here.get((focus, init, "none"), cell)
        fraction, without = (wilson(_reached(c), len(c)) for c in (cell, plain))
        helps = fraction.low > without.high
        if norm == "after" or (norm == "before" and not helps and without.center == 1):
            continue
        chapter = "initialization" if norm == "none" else "batch_norm_adds" if helps else "batch_norm_does_not_help"
        factor, theory = _factor(cell, "forward" if norm == "none" else "backward")
        signal = "second moment" if norm == "none" else "gradients"
        yield Claim(
            chapter,
            f"{init}, {PLACES[norm]} ({where}): fraction of seeds that reach {TARGET:.0%}",
            fraction,
            len(cell),
            f"{signal} x {theory:.3g} per layer (measured {factor:.3g})",
            ".2f",
        )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Maps of outcomes and of steps, measurement beside theory by layer, and learning curves."""
    cells = _trained(_cells(records))
    focus, here = _focus(cells)
    about = f"{described(str(records[0].config['data']))}, {max(len(cell) for cell in cells.values())} seeds"
    frame = tidy([r for r in records if r.config["depth"] == focus])
    steps = {key: restricted_mean(cell["steps_to_target"], _budget(cell)) for key, cell in cells.items()}
    # The first chance to be seen at the target is after one epoch.
    limits = (0.5 * min(_budget(c) / c["epochs"].iloc[0] for c in here.values()), max(map(_budget, cells.values())))
    return {
        "outcomes": outcome_maps(cells, INITS, f"How networks end by initialization, depth and BatchNorm: {about}"),
        "steps": step_maps(steps, INITS, limits, f"Steps to a validation accuracy of {TARGET:.0%}: {about}"),
        "propagation": propagation(frame, INITS, f"Depth {focus} at initialization, beside theory: {about}"),
        "curves": curves(frame, INITS, f"Depth {focus}: {about}"),
    }
