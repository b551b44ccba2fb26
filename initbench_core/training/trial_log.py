"""What has happened in a training, and what that makes it: the one bookkeeping of every way to train.

The loop that trains one network and the one that trains many at once tell a `TrialLog` of every step and every
evaluation; it knows when the training must stop, and what its record says.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, nan

import torch

from initbench_core.records.schema import Emission, Measurement, scalar
from initbench_core.training.data import Data
from initbench_core.training.evaluation import Score, constant_loss, loss_unit
from initbench_core.training.metrics import METRICS
from initbench_core.training.outcome import classify, is_bad
from initbench_core.training.recipe import Recipe, check_target

MIB = 2**20


@dataclass
class History:
    """What has happened so far: all that a checkpoint needs beside the weights."""

    step: int = 0
    epoch: int = 0
    samples: int = 0
    seconds: float = 0.0
    first_loss: float = nan
    last_loss: float = nan
    first_bad_step: int | None = None
    steps_to_target: int | None = None
    seconds_to_target: float = inf
    best_loss: float = inf
    best_accuracy: float = 0.0
    best_epoch: int = 0
    stopped_early: bool = False
    steps: dict[str, list[float]] = field(default_factory=dict)
    epochs: dict[str, list[float]] = field(default_factory=dict)


class TrialLog:
    """The course of one training.

    Attributes:
        recipe: how it is trained.
        history: what has happened so far.
    """

    def __init__(self, recipe: Recipe, data: Data, *, sharing: int = 1) -> None:
        """Begin the log of a training.

        Args:
            recipe: how it is trained.
            data: on the device on which it is trained.
            sharing: trainings that share the device's memory, each with an equal part of the peak.

        Raises:
            UserError: the target says nothing.
        """
        check_target(recipe, data)
        self.recipe = recipe
        self.history = History()
        self._y = data.train.y
        self._steps_per_epoch = len(batch_bounds(len(data.train.x), recipe.batch_size))
        self._sharing = sharing
        if self._y.is_cuda:
            torch.cuda.reset_peak_memory_stats(self._y.device)

    def spend(self, seconds: float) -> None:
        """Add wall time of training; evaluations are left out."""
        self.history.seconds += seconds

    def observe(self, loss: float, samples: int) -> bool:
        """Take in the next step's mean loss, the one before its update; tell whether the step is recorded."""
        history = self.history
        history.step += 1
        history.samples += samples
        if history.step == 1:
            history.first_loss = loss
        history.last_loss = loss
        if history.first_bad_step is None and is_bad(loss, history.first_loss):
            history.first_bad_step = history.step
        if self.recipe.target_metric == "train_loss":
            self._check_target(loss, history.step - 1)
        due = history.step % self.recipe.record_every == 0 or history.step == 1 or history.first_bad_step is not None
        if due:
            self.record_step("step", history.step)
            self.record_step("train_loss", loss)
        return due

    def record_step(self, metric: str, value: float) -> None:
        """Record a metric of the current step."""
        self.history.steps.setdefault(metric, []).append(value)

    def evaluated(self, score: Score, rate: float) -> bool:
        """Take in the validation split's score and the learning rate; tell whether the loss is the best so far."""
        history, recipe = self.history, self.recipe
        row = {"epoch": history.epoch, "validation_loss": score.loss, "learning_rate": rate}
        if not self._y.is_floating_point():
            row["validation_accuracy"] = score.accuracy
            history.best_accuracy = max(score.accuracy, history.best_accuracy)
        for name, value in row.items():
            history.epochs.setdefault(name, []).append(value)
        if recipe.target_metric in row:
            self._check_target(row[recipe.target_metric], history.step)
        if score.loss < history.best_loss:
            history.best_loss, history.best_epoch = score.loss, history.epoch
            return True
        if recipe.early_stopping is not None:
            history.stopped_early = history.epoch - history.best_epoch >= recipe.early_stopping
        return False

    def latest(self) -> dict[str, float]:
        """Return the last evaluation, and the last training loss, by metric."""
        rows = {name: values[-1] for name, values in self.history.epochs.items() if name != "epoch"}
        return {**rows, "train_loss": self.history.last_loss}

    def _check_target(self, value: float, updates: int) -> None:
        if self.history.steps_to_target is None and self.recipe.is_met_by(value):
            self.history.steps_to_target = updates
            self.history.seconds_to_target = self.history.seconds

    def must_stop(self) -> bool:
        """Tell whether the training is over before its last epoch."""
        done = self.recipe.stop_at_target and self.history.steps_to_target is not None
        return done or self.history.stopped_early or self.has_diverged()

    def has_diverged(self) -> bool:
        """Tell whether the first bad step, and those to be shown after it, are past."""
        bad = self.history.first_bad_step
        return bad is not None and self.history.step >= bad + self.recipe.after_divergence

    def is_bad(self) -> bool:
        """Tell whether a bad step has been seen: nothing is evaluated from then on."""
        return self.history.first_bad_step is not None

    def evaluation_is_due(self) -> bool:
        """Tell whether the validation split is scored after this epoch."""
        if self.is_bad():
            return False
        is_last = self.history.epoch == self.recipe.epochs or self.must_stop()
        return is_last or self.history.epoch % self.recipe.evaluate_every == 0

    def finish(self, *, weights_are_finite: bool) -> None:
        """Take in whether the weights that the training ends with are numbers: if not, it diverged."""
        if not self.is_bad() and not weights_are_finite:
            self.history.first_bad_step = self.history.step

    def results(self, scores: Mapping[str, Score]) -> Iterator[Emission]:
        """Yield curves, single numbers and the outcome.

        Args:
            scores: of the final weights on the splits "train" and "test"; empty where the training diverged.
        """
        history, unit = self.history, loss_unit(self._y)
        train, test = (scores.get(split, Score(nan, nan)) for split in ("train", "test"))
        if self.recipe.target_metric == "final_train_accuracy":
            self._check_target(train.accuracy, history.step)
        yield from self._curves(unit)
        yield scalar("final_train_loss", unit, train.loss)
        yield scalar("best_validation_loss", unit, nan if self.is_bad() else history.best_loss)
        yield scalar("test_loss", unit, test.loss)
        if not self._y.is_floating_point():
            yield scalar("final_train_accuracy", "fraction", train.accuracy)
            yield scalar("best_validation_accuracy", "fraction", nan if self.is_bad() else history.best_accuracy)
            yield scalar("test_accuracy", "fraction", test.accuracy)
        yield from self._target()
        yield from self._costs()
        yield classify(
            first_bad_step=history.first_bad_step,
            final_loss=train.loss,
            constant_loss=constant_loss(self._y),
            reached_target=None if self.recipe.target is None else history.steps_to_target is not None,
        )

    def _curves(self, loss_unit: str) -> Iterator[Measurement]:
        units = {"train_loss": loss_unit, "validation_loss": loss_unit}
        units |= {"validation_accuracy": "fraction", "learning_rate": "1"}
        units |= {name: METRICS[name].unit for name in self.recipe.model_metrics}
        for axis, columns in (("step", self.history.steps), ("epoch", self.history.epochs)):
            coordinates = [int(c) for c in columns.get(axis, [])]
            for name, values in columns.items():
                if name != axis:
                    yield Measurement(name, units[name], values, {axis: coordinates})

    def _target(self) -> Iterator[Measurement]:
        """What the target took; inf: not within the budget."""
        if self.recipe.target is None:
            return
        steps = inf if self.history.steps_to_target is None else float(self.history.steps_to_target)
        yield scalar("steps_to_target", "steps", steps)
        yield scalar("epochs_to_target", "epochs", steps / self._steps_per_epoch)
        yield scalar("seconds_to_target", "s", self.history.seconds_to_target)

    def _costs(self) -> Iterator[Measurement]:
        history = self.history
        yield scalar("train_seconds", "s", history.seconds)
        yield scalar("samples_per_second", "samples/s", history.samples / history.seconds if history.seconds else nan)
        if self._y.is_cuda:
            peak = torch.cuda.max_memory_allocated(self._y.device) / MIB
            yield scalar("peak_memory", "MiB", peak / self._sharing)


def batch_bounds(samples: int, batch_size: int | None) -> list[tuple[int, int]]:
    """Return where the batches of an epoch begin and end; a last batch of one sample is left out.

    BatchNorm has no statistics of a single sample.
    """
    size = batch_size or samples
    bounds = [(start, min(start + size, samples)) for start in range(0, samples, size)]
    return [(start, stop) for start, stop in bounds if stop - start > 1 or batch_size is None]


def batch_order(samples: int, *, seed: int, epoch: int) -> torch.Tensor:
    """Return the order of an epoch's samples [samples]: a function of (seed, epoch)."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
