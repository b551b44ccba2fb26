"""What the profiles of the convergence study hold."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from initbench_core.experiments import Experiment
from initbench_core.measurement import shapes
from initbench_core.training.data import DataSource
from initbench_core.training.setting import SEEDS, Setting


def grid(name: str, profile: str = "quick") -> list[Any]:
    return list(Experiment(name).grid(Setting(profile=profile, seeds=SEEDS[profile])))


def found(configs: Sequence[Any], *fields: str) -> set[Any]:
    values = {tuple(getattr(config, field) for field in fields) for config in configs}
    return {value[0] for value in values} if len(fields) == 1 else values


PLACES = ("none", "before", "after")
INITS = ("torch_default", "xavier_normal", "kaiming_normal", "orthogonal", "normal(0.01)", "normal(1)", "lsuv")
DEPTHS = {2, 4, 8, 20, 50, 100, 1000}


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_plain_networks_of_every_depth_are_trained(profile: str) -> None:
    configs = grid("plain_depth", profile)
    assert found(configs, "depth") == DEPTHS
    assert all(config.epochs > 0 for config in configs)
    assert found([c for c in configs if c.depth == 20], "init", "norm") == set(product(INITS, PLACES))


@pytest.mark.parametrize(
    ("name", "fields", "values"),
    [
        ("saturating", ("norm",), {"none", "before"}),
        ("glorot_columns", ("activation",), {"tanh", "softsign", "sigmoid"}),
        ("max_stable_lr", ("norm",), set(PLACES)),
        (
            "steps_to_target",
            ("norm", "times"),
            {("none", 1), ("none", 5), ("before", 1), ("before", 5), ("before", 30)},
        ),
        ("bn_batch_size", ("batch",), {2, 4, 8, 16, 32, 64, 256}),
        ("residual", ("variant", "blocks"), set(product(("none", "batch_norm", "fixup", "skip_init"), (10, 30, 100)))),
        (
            "activation_bn",
            ("activation", "norm"),
            set(product(("relu", "elu", "leaky_relu", "tanh", "sigmoid", "gelu"), PLACES)),
        ),
    ],
)
def test_the_quick_profile_holds(name: str, fields: tuple[str, ...], values: set[Any]) -> None:
    assert found(grid(name), *fields) == values
    assert values <= found(grid(name, "full"), *fields)


STUDY = (
    "plain_depth", "saturating", "glorot_columns", "epochs_to_accuracy", "max_stable_lr", "steps_to_target",
    "tanh_phase", "bn_batch_size", "residual", "activation_bn",
)  # fmt: skip


@pytest.mark.parametrize(("profile", "least"), [("quick", 5), ("full", 20)])
@pytest.mark.parametrize("name", STUDY)
def test_every_cell_has_its_seeds(name: str, profile: str, least: int) -> None:
    """But for the one network of each kind whose units are followed."""
    cells: dict[str, set[int]] = {}
    for config in grid(name, profile):
        if not getattr(config, "followed", False):
            cells.setdefault(str(vars(config) | {"seed": None}), set()).add(config.seed)
    assert all(seeds == set(range(least)) for seeds in cells.values())


@pytest.mark.parametrize("name", STUDY)
def test_it_takes_the_images_that_are_asked_for(name: str) -> None:
    for dataset in ("digits5k", "fashion_mnist"):
        setting = Setting(seeds=1, data=DataSource(Path("data"), dataset=dataset))
        assert found(Experiment(name).grid(setting), "data") == {dataset}


@pytest.mark.parametrize(("device", "dtypes", "most"), [("cpu", 1, 2**28), ("cuda", 2, 2**30)])
def test_the_full_speed_profile_holds_every_shape_that_fits(device: str, dtypes: int, most: int) -> None:
    """The whole family, the awkward ones, and every layer of the networks, counted at both batch sizes."""
    configs = list(Experiment("batch_norm_relu_speed").grid(Setting(profile="full", seeds=1, device=device)))
    counts = {shapes.parse(config.shape): config.occurrences for config in configs}
    assert len(counts) == len(configs)
    assert max(shape.num_bytes for shape in counts) <= most
    for dtype in {shape.dtype for shape in counts}:
        for shape in (*shapes.family(dtype, most_bytes=most), *shapes.awkward(dtype)):
            assert shape in counts
        for batch, memory in product((32, 128), shapes.MEMORY):
            for shape, occurrences in shapes.real(batch, dtype, memory).items():
                assert counts.get(shape) == (occurrences if shape.num_bytes <= most else None)
    assert len({shape.dtype for shape in counts}) == dtypes


def test_the_quick_speed_profile_has_some_of_each_kind() -> None:
    """Awkward ones by their channels, planes and rows; layers of networks in both memory formats."""
    configs = grid("batch_norm_relu_speed")
    quick = {shapes.parse(config.shape): config.occurrences for config in configs}
    assert {1, 3, 18, 411} <= {shape.channels for shape in quick}
    assert 880_802 in {shape.sizes[0] for shape in quick}
    assert (7, 7) in {shape.sizes[2:] for shape in quick}
    assert {shape.memory for shape, occurrences in quick.items() if occurrences} == set(shapes.MEMORY)
