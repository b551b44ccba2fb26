"""How initialization and BatchNorm train: steps to the target, and how many trainings fail, for fixed seeds.

A change to a scheme, the training loop or the metrics that no clock would see moves these. They repeat to the last
digit on one machine and one version of torch, for they run on one thread.
"""

import torch

from .common import project

SEEDS = (0, 1, 2, 3, 4)
# Weights and the place of BatchNorm: cells that train at different speeds, stall, diverge, and one whose seeds differ.
CELLS = (
    "kaiming_normal none",
    "kaiming_normal before",
    "torch_default none",
    "xavier_uniform none",
    "orthogonal none",
    "normal(0.01) none",
    "normal(1) none",
    "normal(1) before",
)
# Full-batch steps of gradient descent at `RATE`, on `SAMPLES` points of a noisy line; `DEPTH` hidden layers of `WIDTH`.
BUDGET, RATE, SAMPLES, WIDTH, DEPTH = 300, 0.003, 256, 64, 3

Outcomes = dict[str, list[tuple[float, str]]]


def train_once(cell: str, seed: int) -> tuple[float, str]:
    """Return the steps to the target, `BUDGET` where it is not reached, and the outcome of one training."""
    scheme, norm = cell.split()
    data, training = (project(f"initbench_core.training.{name}") for name in ("data", "train"))
    evaluation, setting = (project(f"initbench_core.training.{name}") for name in ("evaluation", "setting"))
    torch.manual_seed(seed)
    points = data.line(SAMPLES)
    network = project("initbench_core.networks.models").mlp(1, WIDTH, DEPTH, 1, norm=norm)
    project("initbench_core.networks.initializers").initialize_layers_(network, scheme)
    recipe = training.Recipe(
        epochs=BUDGET,
        lr=RATE,
        target=evaluation.LINE_TARGET * evaluation.least_squares_loss(points),
        target_metric="train_loss",
        stop_at_target=True,
        record_every=BUDGET,
        evaluate_every=BUDGET,
    )
    emissions = training.train(
        network, data.Data("line", points, points, points), recipe, seed=seed, setting=setting.Setting()
    )
    steps, outcome = float("nan"), ""
    for emission in emissions:
        if getattr(emission, "metric", None) == "steps_to_target":
            steps = min(float(emission.values[0]), BUDGET)
        elif hasattr(emission, "first_bad_step"):
            outcome = emission.name
    return steps, outcome


class Line:
    params = (CELLS,)
    param_names = ("cell",)
    version = "1"

    def setup_cache(self) -> Outcomes:
        torch.set_num_threads(1)
        return {cell: [train_once(cell, seed) for seed in SEEDS] for cell in CELLS}

    def _fraction(self, outcomes: Outcomes, cell: str, names: set[str]) -> float:
        return sum(name in names for _, name in outcomes[cell]) / len(SEEDS)

    def track_exact_steps_to_target(self, outcomes: Outcomes, cell: str) -> float:
        """Mean over seeds; a training that misses the target counts with the whole budget."""
        return sum(steps for steps, _ in outcomes[cell]) / len(SEEDS)

    def track_exact_diverged(self, outcomes: Outcomes, cell: str) -> float:
        return self._fraction(outcomes, cell, {"diverged"})

    def track_exact_stalled(self, outcomes: Outcomes, cell: str) -> float:
        return self._fraction(outcomes, cell, {"stalled"})

    def track_exact_not_trained(self, outcomes: Outcomes, cell: str) -> float:
        return self._fraction(outcomes, cell, {"diverged", "stalled", "slow"})

    track_exact_steps_to_target.unit = "steps"  # type: ignore[attr-defined]
    track_exact_diverged.unit = "fraction"  # type: ignore[attr-defined]
    track_exact_stalled.unit = "fraction"  # type: ignore[attr-defined]
    track_exact_not_trained.unit = "fraction"  # type: ignore[attr-defined]
