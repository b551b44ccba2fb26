"""A configuration that names what no table has is the user's to put right: one line that says what there is."""

import dataclasses
from typing import Any

import pytest

from initbench_core.errors import ConfigError, check_choice, choose
from initbench_core.experiments import Experiment, names
from initbench_core.training.cell import run_trial
from initbench_core.training.setting import Setting

SMOKE = Setting(profile="smoke", seeds=1)


def refused(experiment: Experiment, config: Any, field: str) -> str:
    with pytest.raises(ConfigError, match=r"'nonsense': (choose from|write) ") as caught:
        run_trial(experiment, dataclasses.replace(config, **{field: "nonsense"}), SMOKE, "")
    return str(caught.value)


@pytest.mark.parametrize("name", names())
def test_every_name_in_a_configuration_is_checked(name: str) -> None:
    if name == "static_cost":
        pytest.importorskip("triton")
    experiment = Experiment(name)
    # The last of a grid uses all its fields: of two parts of an experiment the first may leave some blank.
    config = experiment.grid(SMOKE)[-1]
    for field, value in dataclasses.asdict(config).items():
        if isinstance(value, str):
            assert "\n" not in refused(experiment, config, field), field


def test_an_operator_that_is_not_counted() -> None:
    pytest.importorskip("triton")
    experiment = Experiment("static_cost")
    assert "random_fill" in refused(experiment, experiment.grid(SMOKE)[0], "name")


def test_choose_finds_by_name_or_lists_the_names() -> None:
    assert choose("colour", "red", {"red": 1, "blue": 2}) == 1
    with pytest.raises(ConfigError, match=r"^unknown colour 'green': choose from red, blue$"):
        choose("colour", "green", {"red": 1, "blue": 2})


def test_of_many_names_the_nearest_are_listed() -> None:
    many = [f"build-{number}" for number in range(200)]
    with pytest.raises(
        ConfigError, match=r"^unknown build 'biuld-17': choose from 200 names, as build-17, [^,]+, [^,]+$"
    ):
        check_choice("build", "biuld-17", many)
