"""Initialization x BatchNorm x depth: which plain networks train, and what theory says.

Question: down to which depth does the initialization alone decide whether a plain ReLU network trains, and what does
batch normalization change?

MLPs of 100 units a layer on digits, seven initializers, BatchNorm none, before and after the ReLU. Every network is
looked at as it starts, in float64: second moments of the pre-activations and of the loss's gradients by layer, the
factor per layer fitted to them, and mean-field theory for its own weights beside it. Then it is trained: SGD at 0.01
with momentum 0.9, batches of 64, one recipe for all, no schedule, no clipping; the target is a validation accuracy of
70%, scored once an epoch. The budget is short: it asks what starts, not what is best in the end. Away from depth 20
the quick profile stops a training at its target and leaves cells out.

Expected: at depth 20 without BatchNorm Kaiming and orthogonal weights (with the ReLU's gain) and LSUV train, Xavier
partly or late (1/2 per layer), torch's default (1/6 per layer) and N(0.01) stall, N(1) diverges. BatchNorm makes the
scale of the hidden weights irrelevant forward and rescues the default; the last layer is not normalized, so that N(1)
stays lost. With it gradients grow by pi / (pi - 1) = 1.467 per layer whatever the weights: 2e8 in the second moment
over 50 layers, where it helps no more within such a budget.
Source: Glorot & Bengio 2010; He et al. 2015, section 2.2; Ioffe & Szegedy 2015; Mishkin & Matas 2016; Yang et al. 2019.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from initbench_core.networks.models import NORM_PLACES, mlp, mlp_weights
from initbench_core.presentation.censored import restricted_mean, steps_ratio
from initbench_core.presentation.depth_findings import Cells, by_accuracy, by_steps, change, changes, factor, reached
from initbench_core.presentation.depth_study import PLACES, curves, outcome_maps, propagation, step_maps
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.signs import signs
from initbench_core.presentation.statistics import interval, wilson
from initbench_core.presentation.story import Claim, do_train
from initbench_core.records.frame import per_trial, tidy
from initbench_core.records.schema import Emission, Record
from initbench_core.training.data import TRAINING_IMAGES, Data, described
from initbench_core.training.probing import look
from initbench_core.training.recipe import Recipe
from initbench_core.training.seeding import initialize_for_
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_cell
from initbench_core.training.train import train
from initbench_core.training.trial_log import batch_bounds

INITS = ("torch_default", "xavier_normal", "kaiming_normal", "orthogonal", "lsuv", "normal(0.01)", "normal(1)")
FEW = [("kaiming_normal", "none"), ("kaiming_normal", "before"), ("orthogonal", "none"), ("orthogonal", "before")]
TARGET = 0.7
BATCH = 64
FOCUS = 20  # the depth of the curves


@dataclass(frozen=True)
class Config:
    """One network."""

    data: str
    init: str
    norm: str  # place of BatchNorm: none, before or after the ReLU
    depth: int
    epochs: int
    stops: bool  # whether training ends at the target
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """The profile's depths, each with its budget."""
    everything = list(product(INITS, NORM_PLACES))
    no_lsuv = [cell for cell in everything if cell[0] != "lsuv"]  # its passes grow with the square of the depth
    depths: list[tuple[int, int, bool, list[tuple[str, str]]]] = setting.pick(
        smoke=[(60, 1, True, FEW[:2]), (3, 1, False, [("normal(1)", "none"), *FEW])],
        quick=[(2, 5, True, FEW), (4, 5, True, everything), (8, 5, True, FEW), (FOCUS, 5, False, everything),
               (50, 5, True, FEW), (100, 2, True, FEW), (1000, 1, True, FEW[:2])],
        full=[*((d, 30, False, everything) for d in (2, 4, 8, FOCUS, 50, 100)), (1000, 2, False, no_lsuv)],
    )  # fmt: skip
    for depth, epochs, stops, cells in depths:
        for (init, norm), seed in product(cells, range(setting.seeds)):
            yield Config(setting.data.images(), init, norm, depth, epochs, stops, seed)


def prepare(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
    """Return the network with its weights, the images and the recipe."""
    data = setting.data.load(config.data)
    model = nn.Sequential(nn.Flatten(), *mlp(784, 100, config.depth, 10, norm=config.norm))
    options: dict[str, Any] = {"batch": data.train.x[:256].to(setting.device)} if config.init == "lsuv" else {}
    # With the ReLU's gain Xavier's weights would be Kaiming's in a square layer; as published it has none.
    nonlinearity = "linear" if config.init == "xavier_normal" else "relu"
    initialize_for_(setting, model, config.init, seed=config.seed, nonlinearity=nonlinearity, **options)
    recipe = Recipe(config.epochs, lr=0.01, batch_size=BATCH, momentum=0.9, target=TARGET, record_every=5,
                    target_metric="validation_accuracy", stop_at_target=config.stops,
                    model_metrics=("update_ratio",))  # fmt: skip
    return model, data, recipe


def weights(config: Config) -> int:
    """Count the weights of a network."""
    return mlp_weights(784, 100, config.depth, 10, norm=config.norm)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Look at one network, then train it."""
    model, data, recipe = prepare(config, setting)
    yield from look([model], data, recipe, norm=config.norm)[0]
    yield from train(model, data, recipe, seed=config.seed, setting=setting)


def run_together(configs: Sequence[Config], setting: Setting) -> Sequence[Iterable[Emission]]:
    """Look at each network of a cell, then train all of them at once."""
    return train_cell(prepare, configs, setting, partial(look, norm=configs[0].norm))


def _cells(records: Sequence[Record]) -> Cells:
    """The trials by depth, initializer and place of BatchNorm, sorted by seed, in the order of the grid."""
    groups: Any = per_trial(records).sort_values("seed").groupby(["depth", "init", "norm"])
    order = {(init, norm): at for at, (init, norm) in enumerate(product(INITS, NORM_PLACES))}
    return dict(sorted(groups, key=lambda group: (group[0][0], order[group[0][1:]])))


def _focus(cells: Cells) -> tuple[int, Cells]:
    """The depth that the findings are about, and its cells: FOCUS where it was run."""
    focus = max((depth for depth, _, _ in cells), key=lambda depth: (depth == FOCUS, depth))
    return focus, {key: cell for key, cell in cells.items() if key[0] == focus}


def _budget(cell: pd.DataFrame) -> int:
    return int(cell["epochs"].iloc[0]) * len(batch_bounds(TRAINING_IMAGES[cell["data"].iloc[0]], BATCH))


def _within(cells: Cells) -> str:
    """Say what cells of one depth were given: beyond it nothing is known."""
    (steps,) = {_budget(cell) for cell in cells.values()}
    return f"within {steps} steps"


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per cell: outcome, steps, whether it differs from Kaiming without BatchNorm, and factors beside theory."""
    cells, seen, rows = _cells(records), signs(records, "depth", "init", "norm"), []
    for (depth, init, norm), cell in cells.items():
        steps, theirs = (c["steps_to_target"] for c in (cell, cells[depth, "kaiming_normal", "none"]))
        ratio = steps_ratio(steps, theirs, _budget(cell))
        is_reference = (init, norm) == ("kaiming_normal", "none")
        row: dict[str, Any] = {
            "depth": depth,
            "initializer": init,
            "BatchNorm": norm,
            "n": len(cell),
            "outcomes": ", ".join(sorted(set(cell["outcome"]))),
            "trained (95% Wilson)": f"{wilson(reached(cell), len(cell)):.2f}",
            "steps to 70%": f"{restricted_mean(steps, _budget(cell)):.0f}",
            "times Kaiming's without": "-" if is_reference else f"{ratio:.3g}",
            "separated": "-" if is_reference else ratio.separated,
            "best validation accuracy": cell["best_validation_accuracy"].mean(),
        }
        rows.append(row | seen[depth, init, norm])
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """What trains at the depth in focus, whom BatchNorm rescues, deeper networks, theory, and what is open."""
    cells = _cells(records)
    focus, here = _focus(cells)
    data = described(str(records[0].config["data"]))
    rescued = f"By Wilson's intervals BatchNorm, at depth {focus} on {data} {_within(here)}, {changes(here)}"
    yield Finding(f"{rescued}; others are not told apart.", "outcomes")
    counts: dict[str, list[str]] = {norm: [] for norm in NORM_PLACES}
    for (_, init, norm), cell in here.items():
        counts[norm].append(f"{init} {reached(cell)}/{len(cell)}")
    parts = [f"{PLACES[norm]}: {', '.join(names)}" for norm, names in counts.items() if names]
    yield f"Seeds that reach {TARGET:.0%} at depth {focus} on {data} {_within(here)}: {'; '.join(parts)}."
    for deep in sorted({depth for depth, _, _ in cells if depth > focus}) or [focus]:
        there = {key: cell for key, cell in cells.items() if key[0] == deep}
        parts = [
            f"{init}, {PLACES[norm]}: {reached(cell)}/{len(cell)}, gradients x {factor(cell, 'backward')[0]:.3f} per "
            f"layer (theory {factor(cell, 'backward')[1]:.3f})"
            for (_, init, norm), cell in there.items()
            if (init, norm) in FEW
        ]
        yield f"At depth {deep} reach it {_within(there)}: {'; '.join(parts)}."
    ratios = {way: pd.concat([c[f"{way}_factor_ratio"] for c in here.values()]) for way in ("forward", "backward")}
    parts = [f"{r.min():.2f} to {r.max():.2f} times theory's {way}" for way, r in ratios.items()]
    networks = f"Over all networks of depth {focus} the measured factor per layer is"
    yield Finding(f"{networks} {' and '.join(parts)}.", "propagation")
    reference, against = (focus, "kaiming_normal", "none"), "Kaiming without BatchNorm"
    compared = by_steps(here, reference, _budget(here[reference]))
    yield Finding(f"Steps to {TARGET:.0%} at depth {focus} over those of {against}, {compared}.", "steps")
    yield Finding(f"Test accuracy at depth {focus} against {against}, {by_accuracy(here, reference)}.", "curves")


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """Each initializer at the depth in focus, and with BatchNorm where that is told apart; gradients at great depth."""
    cells = _cells(records)
    focus, here = _focus(cells)
    data, deep = described(str(records[0].config["data"])), max(depth for depth, _, _ in cells)
    for (_, init, norm), cell in here.items():
        verb = change(here, init, norm)
        if norm == "after" or (norm == "before" and not verb):
            continue
        trained = wilson(reached(cell), len(cell))
        helps = "batch_norm_adds" if verb == "rescues" else "batch_norm_does_not_help"
        yield Claim(
            "initialization" if norm == "none" else helps,
            f"{focus} layers with {init} weights and {PLACES[norm]} {do_train(trained)} on {data}: fraction of seeds "
            f"that reach {TARGET:.0%} accuracy {_within(here)}",
            trained,
            len(cell),
            "gradients x {1:.3g} per layer (measured {0:.3g})".format(*factor(cell, "backward")),
            ".2f",
        )
    cell = cells[deep, "kaiming_normal", "before"]
    yield Claim(
        "batch_norm_does_not_help",
        f"{deep} layers with kaiming_normal weights and {PLACES['before']} on {data}, of which {reached(cell)} of "
        f"{len(cell)} seeds reach {TARGET:.0%} accuracy within {_budget(cell)} steps: growth of the gradient's second "
        "moment per layer",
        interval(cell["backward_factor"], log=True),
        len(cell),
        factor(cell, "backward")[1],
    )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Maps of outcomes and of steps, measurement beside theory by layer, and learning curves."""
    cells = _cells(records)
    focus, here = _focus(cells)
    about = f"{described(str(records[0].config['data']))}, {max(len(cell) for cell in cells.values())} seeds"
    frame = tidy([r for r in records if r.config["depth"] == focus])
    steps = {key: restricted_mean(cell["steps_to_target"], _budget(cell)) for key, cell in cells.items()}
    limits = (0.5 * min(_budget(c) / c["epochs"].iloc[0] for c in here.values()), max(map(_budget, cells.values())))
    return {
        "outcomes": outcome_maps(cells, INITS, f"Seeds trained, by initialization and depth: {about}"),
        "steps": step_maps(steps, INITS, limits, f"Steps to a validation accuracy of {TARGET:.0%}: {about}"),
        "propagation": propagation(frame, INITS, f"Signals and gradients of {focus} layers at the start: {about}"),
        "curves": curves(frame, INITS, f"Learning curves of {focus} layers: {about}"),
    }
