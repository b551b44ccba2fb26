"""What a study over initializer, depth and place of BatchNorm finds at one depth: cells against each other, in words.

Cells are the trials by depth, initializer and place ("none", "before", "after"), sorted by seed, with the columns of
`records.frame.per_trial`.
"""

import math
from collections.abc import Mapping

import pandas as pd

from initbench_core.presentation.censored import restricted_mean, steps_ratio
from initbench_core.presentation.depth_study import PLACES, Key
from initbench_core.presentation.statistics import interval, wilson

Cells = Mapping[Key, pd.DataFrame]


def reached(cell: pd.DataFrame) -> int:
    """Return how many trials were trained."""
    return int((cell["outcome"] == "trained").sum())


def factor(cell: pd.DataFrame, way: str) -> tuple[float, float]:
    """Return the measured factor per layer and theory's, geometric means over seeds; `way` is forward or backward."""
    measured = interval(cell[f"{way}_factor"], log=True).center
    return measured, measured / interval(cell[f"{way}_factor_ratio"], log=True).center


def change(here: Cells, init: str, norm: str) -> str:
    """Say what BatchNorm does to an initializer, as far as Wilson's intervals are apart; empty where they are not."""
    trained = {place: wilson(reached(c), len(c)) for (_, i, place), c in here.items() if i == init}
    without, found = trained["none"], trained[norm]
    if norm != "none" and found.center == without.center == 0:
        return "does not save"
    return "rescues" if found.low > without.high else "harms" if found.high < without.low else ""


def changes(here: Cells) -> str:
    """Say whom BatchNorm rescues, harms and does not save, and in which places."""
    found: dict[str, dict[str, list[str]]] = {}
    for _, init, norm in here:
        if verb := change(here, init, norm):
            found.setdefault(verb, {}).setdefault(init, []).append(norm)
    parts = []
    for verb, inits in found.items():
        named = [f"{init} ({' and '.join(places)} the ReLU)" for init, places in inits.items()]
        parts.append(f"{verb} {', '.join(named)}")
    return "; ".join(parts) or "changes nothing"


def by_steps(here: Cells, reference: Key, budget: float) -> str:
    """Sort the cells by their steps to the target over those of a reference cell, paired, whose steps it gives."""
    theirs = here[reference]["steps_to_target"]
    ratios = {key: steps_ratio(cell["steps_to_target"], theirs, budget) for key, cell in here.items()}
    found = {key: (ratio.is_below, ratio.is_above) for key, ratio in ratios.items() if key != reference}
    return f"{restricted_mean(theirs, budget):.0f}, paired: {_sorted_out(found, ('fewer', 'more'))}"


def by_accuracy(here: Cells, reference: Key) -> str:
    """Sort the cells by their test accuracy against a reference cell, paired; what diverged has none."""
    accuracies = {key: cell.set_index("seed")["test_accuracy"] for key, cell in here.items()}
    gains = {key: interval(accuracy - accuracies[reference]) for key, accuracy in accuracies.items()}
    there = {key: gain for key, gain in gains.items() if key != reference and math.isfinite(gain.center)}
    found = {key: (gain.high < 0, gain.low > 0) for key, gain in there.items()}
    return f"paired: {_sorted_out(found, ('lower', 'higher'))}"


def _sorted_out(found: Mapping[Key, tuple[bool, bool]], words: tuple[str, str]) -> str:
    """Name the cells that are shown to be below the reference, and above it, by place; count the others."""
    parts = []
    for side, word in enumerate(words):
        cells: dict[str, list[str]] = {}
        for (_, init, norm), shown in found.items():
            if shown[side]:
                cells.setdefault(norm, []).append(init)
        named = [f"{', '.join(cells[norm])} with {place}" for norm, place in PLACES.items() if norm in cells]
        parts.append(f"{word} for {' and for '.join(named)}" if named else f"{word} nowhere")
    open_ = sum(not any(shown) for shown in found.values())
    return f"{'; '.join(parts)}; {open_} of {len(found)} are not separated"
