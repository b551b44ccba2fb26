"""The training loop: outcomes, restoring, resuming, clipping, repeating itself."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from initbench_core.errors import UserError
from initbench_core.records.schema import Emission, Measurement, Note, Outcome
from initbench_core.training import checkpoint
from initbench_core.training.data import Data, Split
from initbench_core.training.evaluation import constant_loss, evaluate
from initbench_core.training.outcome import classify, is_bad
from initbench_core.training.setting import Setting
from initbench_core.training.train import Recipe, train


def blobs(seed: int = 0) -> Data:
    """Three classes around three centers, learnable but not trivial."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(300) % 3
    x = torch.randn(3, 8, generator=generator)[y] + torch.randn(300, 8, generator=generator)
    return Data("blobs", Split(x[:180], y[:180]), Split(x[180:240], y[180:240]), Split(x[240:], y[240:]))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3))


RECIPE = Recipe(epochs=6, lr=0.05, momentum=0.9, batch_size=32, plateau_patience=1, keep_checkpoint=True)


def emit(recipe: Recipe, setting: Setting | None = None, model: nn.Module | None = None) -> list[Emission]:
    torch.manual_seed(1)
    return list(train(model or network(), blobs(), recipe, seed=0, setting=setting or Setting()))


def values(emissions: Sequence[Emission], metric: str) -> list[float]:
    (found,) = (m for m in emissions if isinstance(m, Measurement) and m.metric == metric)
    return list(found.values)


def outcome(emissions: Sequence[Emission]) -> Outcome:
    (found,) = (m for m in emissions if isinstance(m, Outcome))
    return found


def steady(emissions: Sequence[Emission]) -> list[Emission]:
    """What two runs of one training agree on: all but the clock."""
    return [e for e in emissions if not (isinstance(e, Measurement) and e.is_time)]


def test_the_same_seed_gives_the_same_records() -> None:
    assert steady(emit(RECIPE)) == steady(emit(RECIPE))


def test_times_are_recorded() -> None:
    emissions = emit(replace(RECIPE, target=0.8, target_metric="validation_accuracy"))
    (steps,), (epochs,) = values(emissions, "steps_to_target"), values(emissions, "epochs_to_target")
    assert epochs == steps / 6
    (total,), (until,) = values(emissions, "train_seconds"), values(emissions, "seconds_to_target")
    assert 0 < until <= total
    assert values(emissions, "samples_per_second")[0] == pytest.approx(6 * 180 / total)
    missed = emit(replace(RECIPE, epochs=1, target=1.01, target_metric="validation_accuracy"))
    assert [values(missed, m) for m in ("epochs_to_target", "seconds_to_target")] == [[math.inf], [math.inf]]


@pytest.mark.parametrize(
    ("metric", "target"),
    [("train_loss", 1.2), ("validation_loss", 1.2), ("validation_accuracy", 0.3), ("final_train_accuracy", 0.3)],
)
def test_a_target_that_the_constant_predictor_meets_is_refused(metric: str, target: float) -> None:
    with pytest.raises(UserError, match=r"on blobs says nothing: a constant predictor has (1\.099|0\.3333) already"):
        emit(replace(RECIPE, target=target, target_metric=metric))


def test_a_step_is_its_gradient_times_the_rate() -> None:
    """Plain SGD: the update's norm is the rate times the gradient's."""
    model = nn.Linear(8, 3)
    norm = torch.cat([p.detach().flatten() for p in model.parameters()]).norm().item()
    recipe = Recipe(epochs=1, lr=0.1, model_metrics=("gradient_norm", "update_ratio"))
    emissions = emit(recipe, model=model)
    expected = 0.1 * values(emissions, "gradient_norm")[0] / norm
    assert values(emissions, "update_ratio")[0] == pytest.approx(expected, rel=1e-5)


def test_it_learns_and_says_so() -> None:
    emissions = emit(replace(RECIPE, target=0.8, target_metric="validation_accuracy"))
    assert outcome(emissions) == Outcome("trained")
    assert values(emissions, "test_accuracy")[0] > 0.8
    assert values(emissions, "final_train_loss")[0] < math.log(3)
    assert values(emissions, "steps_to_target")[0] % 6 == 0  # six batches an epoch, evaluated at its end


def test_without_a_target_it_learns_and_no_more_is_said() -> None:
    emissions = emit(RECIPE)
    assert outcome(emissions) == Outcome("learned")
    assert not any(isinstance(m, Measurement) and m.metric.endswith("_to_target") for m in emissions)


def test_a_target_for_the_training_images_is_looked_for_at_the_end() -> None:
    recipe = replace(RECIPE, epochs=2, target_metric="final_train_accuracy")
    reached = values(emit(recipe), "final_train_accuracy")[0]
    met, missed = (emit(replace(recipe, target=reached + gap)) for gap in (0.0, 0.001))
    assert (outcome(met), values(met, "steps_to_target")) == (Outcome("trained"), [12.0])
    assert (outcome(missed), values(missed, "steps_to_target")) == (Outcome("slow"), [math.inf])


def test_a_missed_target_is_censored_not_dropped() -> None:
    emissions = emit(replace(RECIPE, epochs=2, target=1.01, target_metric="validation_accuracy"))
    assert outcome(emissions) == Outcome("slow")
    assert values(emissions, "steps_to_target") == [math.inf]


def test_divergence_is_an_outcome_with_its_step() -> None:
    recipe = Recipe(epochs=50, lr=1e12, record_every=100, after_divergence=2)
    emissions = emit(recipe, model=nn.Linear(8, 3))
    found = outcome(emissions)
    assert found.name == "diverged"
    assert found.first_bad_step == 2
    # What a diverged network would score is not a number; the columns are there all the same.
    assert all(math.isnan(values(emissions, m)[0]) for m in ("final_train_loss", "test_loss", "test_accuracy"))
    (curve,) = (m for m in emissions if isinstance(m, Measurement) and m.metric == "train_loss")
    assert list(curve.axes["step"]) == [1, 2, 3, 4]


def test_stop_at_target_stops() -> None:
    recipe = replace(RECIPE, epochs=100, target=0.7, target_metric="train_loss", stop_at_target=True)
    steps = values(emit(recipe), "steps_to_target")[0]
    assert math.isfinite(steps)
    # The loss that met the target was seen in the step after that many updates.
    assert len(values(emit(recipe), "validation_loss")) == math.ceil((steps + 1) / 6)


def test_early_stopping_restores_the_best_weights() -> None:
    """The lecture kept `model.state_dict()`, which follows the training, and restored the last weights."""
    model = network()
    recipe = replace(RECIPE, epochs=40, lr=0.5, early_stopping=3, plateau_patience=None)
    emissions = emit(recipe, model=model)
    curve = values(emissions, "validation_loss")
    best = min(curve)
    assert len(curve) == curve.index(best) + 1 + 3 < 40
    assert evaluate(model, blobs().validation).loss == pytest.approx(best, rel=1e-6)
    assert curve[-1] > best


def test_a_resumed_training_ends_in_the_same_numbers(tmp_path: Path) -> None:
    """Interrupted in the middle of the fourth epoch, continued from the third's checkpoint: nothing differs."""
    expected = steady(emit(RECIPE))
    setting = Setting(checkpoint=tmp_path / "trial.pt")

    class Interrupted(Exception):
        pass

    def interrupt(fraction: float) -> None:
        if fraction >= 0.5:
            raise Interrupted

    with pytest.raises(Interrupted):
        emit(RECIPE, replace(setting, progress=interrupt))
    assert setting.checkpoint is not None
    assert setting.checkpoint.exists()
    assert steady(emit(RECIPE, setting, network(seed=99))) == expected


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def lose_the_digest(path: Path) -> None:
    path.with_name(path.name + ".sha256").unlink()


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, lose_the_digest])
def test_a_damaged_checkpoint_restarts_the_training_and_says_so(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "trial.pt"
    emit(replace(RECIPE, epochs=2), Setting(checkpoint=path))
    damage(path)
    emissions = emit(RECIPE, Setting(checkpoint=path))
    assert isinstance(emissions[0], Note)
    assert "started anew: " in emissions[0].text
    assert steady(emissions[1:]) == steady(emit(RECIPE))


def test_a_kill_between_digest_and_checkpoint_keeps_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "trial.pt"
    checkpoint.save(path, {"epoch": 1})
    last = path.read_bytes()
    checkpoint.save(path, {"epoch": 2})
    path.write_bytes(last)  # as if the second had died after its digest
    assert checkpoint.load(path) == {"epoch": 1}
    checkpoint.save(path, {"epoch": 3})
    assert checkpoint.load(path) == {"epoch": 3}


def test_a_damaged_checkpoint_that_the_user_named_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "trial.pt"
    emit(replace(RECIPE, epochs=2), Setting(checkpoint=path))
    flip_a_bit(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"sha256 does not fit.*delete it"):
        emit(RECIPE, Setting(checkpoint=path, strict_checkpoints=True))
    assert path.read_bytes() == before


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "trial.pt"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (canary,)

    checkpoint.save(path, {"model": Payload()})
    with pytest.raises(UserError, match="holds more than weights"):
        checkpoint.load(path)
    assert not canary.exists()


def test_the_plateau_lowers_the_rate() -> None:
    rates = values(emit(replace(RECIPE, epochs=20, lr=3.0, plateau_patience=0)), "learning_rate")
    assert rates[0] == 3.0
    assert rates[-1] <= 0.3


@pytest.mark.parametrize(("clip", "bound"), [({"clip_norm": 0.01}, 0.01), ({"clip_value": 0.001}, None)])
def test_clipping_bounds_the_update(clip: dict[str, float], bound: float | None) -> None:
    model = nn.Linear(8, 3)
    before = copy.deepcopy(model)
    emissions = emit(Recipe(epochs=1, lr=1.0, model_metrics=("gradient_norm",), **clip), model=model)
    change = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before.parameters(), strict=True)])
    assert values(emissions, "gradient_norm")[0] > 0.1
    if bound is not None:
        assert change.norm().item() == pytest.approx(bound, rel=1e-3)
    else:
        assert change.abs().max().item() == pytest.approx(0.001, rel=1e-3)


def test_every_sample_is_seen_once_an_epoch_in_a_new_order() -> None:
    seen: list[torch.Tensor] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append(x.flatten())
            return self.layer(x)

    split = Split(torch.arange(10.0).view(10, 1), torch.zeros(10, 1))
    data = Data("count", split, split, split)
    list(train(Spy(), data, Recipe(epochs=2, lr=0.0, batch_size=4), seed=0, setting=Setting()))
    epochs = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert all(torch.equal(e.sort().values, torch.arange(10.0)) for e in epochs)
    assert not torch.equal(*epochs)


@pytest.mark.parametrize(
    ("bad", "final", "reached", "name"),
    [
        (3, 0.1, True, "diverged"),
        (None, 0.995, False, "stalled"),
        (None, 0.98, False, "slow"),
        (None, 0.5, True, "trained"),
        # Without a target nothing is reached and nothing missed.
        (None, 0.98, None, "learned"),
        (None, 0.995, None, "stalled"),
    ],
)
def test_outcomes(bad: int | None, final: float, reached: bool | None, name: str) -> None:
    found = classify(first_bad_step=bad, final_loss=final, constant_loss=1.0, reached_target=reached)
    assert found == Outcome(name, bad)


@pytest.mark.parametrize(("loss", "bad"), [(math.nan, True), (math.inf, True), (1001.0, True), (999.0, False)])
def test_bad_losses(loss: float, bad: bool) -> None:
    assert is_bad(loss, 1.0) is bad


def test_constant_losses() -> None:
    assert constant_loss(torch.arange(100) % 10) == pytest.approx(math.log(10))
    assert constant_loss(torch.tensor([[0.0], [2.0]])) == pytest.approx(1.0)


def test_tensorboard_files_are_written(tmp_path: Path) -> None:
    emit(replace(RECIPE, epochs=1), Setting(tensorboard=tmp_path))
    assert list(tmp_path.glob("events.out.tfevents.*"))
