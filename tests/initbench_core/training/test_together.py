"""Training many networks at once: to each what it would have had alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from initbench_core.errors import UserError
from initbench_core.networks.initializers import initialize_layers_
from initbench_core.networks.models import cnn, mlp, residual_mlp
from initbench_core.records.schema import Emission, Measurement, Outcome
from initbench_core.training.data import Data, Split
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_cell, train_together
from initbench_core.training.train import Recipe, train
from tests import tolerances

SEEDS = (3, 0, 7)
RECIPE = Recipe(epochs=4, lr=0.05, batch_size=32, target=0.8, target_metric="validation_accuracy")
Build = Callable[[], nn.Module]


def images() -> Data:
    """Three classes of [1, 2, 4] around three centers; 161 training samples leave a last batch of one."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    x = (torch.randn(3, 8, generator=generator)[y] + torch.randn(300, 8, generator=generator)).view(-1, 1, 2, 4)
    return Data("blobs", Split(x[:161], y[:161]), Split(x[161:240], y[161:240]), Split(x[240:], y[240:]))


def curve() -> Data:
    """A noisy line, [N, 1] to [N, 1]."""
    x = torch.randn(120, 1, generator=torch.Generator().manual_seed(0))
    parts = (Split(part, 3 * part) for part in (x[:80], x[80:100], x[100:]))
    return Data("line", *parts)


def build(
    seed: int, make: Callable[..., nn.Sequential] = mlp, init: str = "kaiming_normal", **options: object
) -> nn.Module:
    torch.manual_seed(seed)
    network = make(8, 16, 2, 3, **options)
    initialize_layers_(network, init)
    return nn.Sequential(nn.Flatten(), *network)


def by_name(emissions: Sequence[Emission]) -> dict[str, Measurement]:
    return {m.metric: m for m in emissions if isinstance(m, Measurement) and not m.is_time}


def outcome(emissions: Sequence[Emission]) -> Outcome:
    (found,) = (e for e in emissions if isinstance(e, Outcome))
    return found


def assert_alike(together: Sequence[Emission], alone: Sequence[Emission]) -> None:
    """The same measurements on the same axes, values within rounding; the same outcome and steps to the target."""
    found, expected = by_name(together), by_name(alone)
    assert list(found) == list(expected)
    for name, measurement in expected.items():
        assert found[name].axes == measurement.axes, name
        assert found[name].unit == measurement.unit, name
        assert list(found[name].values) == pytest.approx(
            list(measurement.values), rel=tolerances.TOGETHER_RELATIVE, abs=tolerances.TOGETHER_ABSOLUTE, nan_ok=True
        ), name
    assert outcome(together) == outcome(alone)


def assert_same_as_alone(models: Callable[[int], nn.Module], recipe: Recipe, data: Data) -> list[list[Emission]]:
    setting = Setting()
    alone = [list(train(models(seed), data, recipe, seed=seed, setting=setting)) for seed in SEEDS]
    stacked = [models(seed) for seed in SEEDS]
    together = train_together(stacked, data, recipe, seeds=SEEDS, setting=setting)
    for one, other in zip(together, alone, strict=True):
        assert_alike(one, other)
    return together


@pytest.mark.parametrize("norm", ["none", "before", "after"])
@pytest.mark.parametrize(("make", "activation"), [(mlp, "relu"), (mlp, "tanh"), (residual_mlp, "relu")])
def test_each_gets_what_it_would_have_alone(make: Callable[..., nn.Sequential], activation: str, norm: str) -> None:
    recipe = replace(RECIPE, momentum=0.9, weight_decay=1e-3, model_metrics=("gradient_norm", "update_ratio"))
    results = assert_same_as_alone(lambda seed: build(seed, make, activation=activation, norm=norm), recipe, images())
    assert all(math.isfinite(by_name(r)["steps_to_target"].values[0]) for r in results)


@pytest.mark.parametrize("clip", [{"clip_norm": 0.1}, {"clip_value": 0.01}], ids=["norm", "value"])
def test_clipping_is_each_networks_own(clip: dict[str, float]) -> None:
    assert_same_as_alone(build, replace(RECIPE, **clip), images())


def test_a_full_batch_of_real_targets() -> None:
    recipe = Recipe(epochs=30, lr=0.05, target=0.5, target_metric="train_loss", stop_at_target=True, record_every=7)

    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return mlp(1, 16, 2, 1, norm="before", bias=False)

    results = assert_same_as_alone(network, recipe, curve())
    # They stop at different steps, and the last evaluation is each one's own.
    assert len({by_name(r)["steps_to_target"].values[0] for r in results}) > 1


@pytest.mark.parametrize("after", [0, 2])
def test_one_diverges_and_touches_nobody(after: int) -> None:
    """Its loss is NaN or infinite from some step on; the others' numbers are those of healthy company."""
    inits = {3: "kaiming_normal", 0: "normal(1e8)", 7: "kaiming_normal"}
    recipe = replace(RECIPE, after_divergence=after, model_metrics=("gradient_norm", "update_ratio"))
    results = assert_same_as_alone(lambda seed: build(seed, init=inits[seed]), recipe, images())
    assert [outcome(r).name == "diverged" for r in results] == [False, True, False]
    assert outcome(results[1]).first_bad_step == 2


def test_all_diverge() -> None:
    results = assert_same_as_alone(lambda seed: build(seed, init="normal(1e8)"), RECIPE, images())
    assert {outcome(r).name for r in results} == {"diverged"}


def test_early_stopping_returns_each_ones_best_weights() -> None:
    recipe = replace(RECIPE, epochs=25, lr=0.8, early_stopping=2)
    models = [build(seed) for seed in SEEDS]
    alone = [build(seed) for seed in SEEDS]
    together = train_together(models, images(), recipe, seeds=SEEDS, setting=Setting())
    for emissions, model, other, seed in zip(together, models, alone, SEEDS, strict=True):
        assert_alike(emissions, list(train(other, images(), recipe, seed=seed, setting=Setting())))
        for mine, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2)
    assert len({len(by_name(e)["validation_loss"].values) for e in together}) > 1


def test_models_end_with_their_own_weights_and_statistics() -> None:
    models = [build(seed, norm="before") for seed in SEEDS]
    train_together(models, images(), RECIPE, seeds=SEEDS, setting=Setting())
    for model, seed in zip(models, SEEDS, strict=True):
        alone = build(seed, norm="before")
        list(train(alone, images(), RECIPE, seed=seed, setting=Setting()))
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


class Scaled(nn.Module):
    """A block with one learned number, as SkipInit has."""

    works_on_any_shape = True

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.branch = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.branch(x)


def test_blocks_with_a_learned_factor() -> None:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), Scaled(), Scaled(), nn.Linear(8, 3))

    assert_same_as_alone(network, RECIPE, images())


def tied() -> nn.Module:
    layer = nn.Linear(8, 8)
    return nn.Sequential(nn.Flatten(), layer, layer, nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([lambda: cnn()], "cannot stack networks with a Conv2d"),
        ([lambda: build(0), lambda: build(0, norm="before")], "different architecture"),
        ([tied], "share parameters"),
        ([lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8, momentum=None))], "fixed momentum"),
        ([lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5))], "Dropout"),
        ([lambda: nn.Linear(4, 3)], "without Flatten"),
    ],
)
def test_what_cannot_be_stacked_is_named(models: Sequence[Build], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_together([make() for make in models], images(), RECIPE, seeds=range(len(models)), setting=Setting())


@pytest.mark.parametrize("change", [{"plateau_patience": 1}, {"keep_checkpoint": True}])
def test_what_a_stack_has_no_use_for_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="training of its own"):
        train_together([build(0)], images(), replace(RECIPE, **change), seeds=[0], setting=Setting())


def test_a_target_that_says_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="constant predictor"):
        train_together([build(0)], images(), replace(RECIPE, target=0.2), seeds=[0], setting=Setting())


def test_a_cell_draws_what_its_trials_draw_alone() -> None:
    from initbench_core.training.seeding import seeded

    class Config:
        def __init__(self, seed: int) -> None:
            self.seed = seed

    def prepare(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
        return nn.Sequential(nn.Flatten(), *mlp(8, 16, 2, 3)), images(), RECIPE

    together = train_cell(prepare, [Config(seed) for seed in SEEDS], Setting())
    for emissions, seed in zip(together, SEEDS, strict=True):
        model, data, recipe = seeded(prepare, Config(seed), Setting())
        assert_alike(emissions, list(train(model, data, recipe, seed=seed, setting=Setting())))


def test_networks_too_large_for_one_stack_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment that does not say how large they are learns it before the first step."""

    @dataclass(frozen=True)
    class Config:
        seed: int

    def prepare(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
        return build(config.seed), images(), RECIPE

    bytes_of_one = sum(4 * p.numel() for p in build(0).parameters())
    monkeypatch.setattr("initbench_core.training.together.STACK_LIMIT", {"cpu": 2 * bytes_of_one})
    told: list[float] = []
    setting = Setting(progress=told.append)
    with pytest.raises(ValueError, match="3 networks of 467 weights are too large for one stack"):
        train_cell(prepare, [Config(seed) for seed in SEEDS], setting)
    assert not told
    assert len(train_cell(prepare, [Config(seed) for seed in SEEDS[:2]], setting)) == 2
    monkeypatch.setattr("initbench_core.training.together.STACK_LIMIT", {"cpu": 1})
    assert len(train_cell(prepare, [Config(0)], setting)) == 1, "a single network is never too large"
