"""The one training loop of the suite: SGD with everything an experiment here varies.

It yields what was measured, then the outcome. Batches are a function of (seed, epoch), so that a training continued
from a checkpoint ends in the same numbers as one that was never interrupted.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from initbench_core.errors import UserError
from initbench_core.records.schema import Emission, Measurement, Note, scalar
from initbench_core.training import checkpoint
from initbench_core.training.data import Data, Split
from initbench_core.training.evaluation import Score, constant_loss, evaluate, loss_of, loss_unit
from initbench_core.training.metrics import METRICS
from initbench_core.training.outcome import classify, is_bad
from initbench_core.training.setting import Setting
from initbench_core.training.tensorboard import scalar_writer


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training split; with a full batch one epoch is one step.
        lr: learning rate of SGD.
        batch_size: samples per step; None takes the full split, unshuffled.
        momentum: of SGD.
        weight_decay: L2 penalty of SGD.
        clip_value: bound on each gradient entry (changes the direction); None leaves them.
        clip_norm: bound on the norm of all gradients together (keeps the direction); None leaves it.
        plateau_patience: epochs without a better validation loss before the rate is divided by 10; None keeps it.
        early_stopping: epochs without a better validation loss before training stops and the best weights return.
        target: training succeeded when `target_metric` gets there; None takes all that is better than stalled.
        target_metric: "train_loss", "validation_loss" (at most the target) or "validation_accuracy" (at least).
        stop_at_target: whether training ends when the target is reached.
        record_every: steps between recorded training losses.
        evaluate_every: epochs between evaluations on the validation split.
        after_divergence: steps still taken after the first bad one, to show what follows.
        model_metrics: metrics of a model, recorded with the training loss.
        keep_checkpoint: whether each epoch is saved, to continue from after an interruption.
    """

    epochs: int
    lr: float
    batch_size: int | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_value: float | None = None
    clip_norm: float | None = None
    plateau_patience: int | None = None
    early_stopping: int | None = None
    target: float | None = None
    target_metric: str = "validation_loss"
    stop_at_target: bool = False
    record_every: int = 1
    evaluate_every: int = 1
    after_divergence: int = 0
    model_metrics: Sequence[str] = ()
    keep_checkpoint: bool = False


@dataclass
class _History:
    """What has happened so far: all that a checkpoint needs beside the weights."""

    step: int = 0
    epoch: int = 0
    first_loss: float = float("nan")
    last_loss: float = float("nan")
    first_bad_step: int | None = None
    steps_to_target: int | None = None
    best_loss: float = float("inf")
    best_epoch: int = 0
    stopped_early: bool = False
    steps: dict[str, list[float]] = field(default_factory=dict)
    epochs: dict[str, list[float]] = field(default_factory=dict)


def train(model: nn.Module, data: Data, recipe: Recipe, *, seed: int, setting: Setting) -> Iterator[Emission]:
    """Train `model` in place on `setting.device` and yield curves, final scores and the outcome.

    Args:
        model: maps a batch of `data` to predictions; moved to the device.
        data: classes (int64 targets, cross-entropy) or real targets (mean squared error).
        recipe: the hyperparameters.
        seed: seed of the batches' order (and nothing else: weights are drawn by the caller).
        setting: device, checkpoint file, TensorBoard folder, progress.

    Yields:
        Measurements "train_loss" by step, "validation_loss", "validation_accuracy" and "learning_rate" by epoch, the
        recipe's model metrics by step; single numbers "final_train_loss" (in evaluation mode, over the whole split),
        "best_validation_loss", "test_loss", "test_accuracy" (nan where it diverged) and "steps_to_target" (updates
        made; inf: not within the budget); then the Outcome.
    """
    yield from _Training(model, data, recipe, seed, setting).run()


class _Training:
    def __init__(self, model: nn.Module, data: Data, recipe: Recipe, seed: int, setting: Setting) -> None:
        self.model = model.to(setting.device).train()
        self.data = data.to(setting.device)
        self.recipe = recipe
        self.seed = seed
        self.setting = setting
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.scheduler = (
            ReduceLROnPlateau(self.optimizer, "min", patience=recipe.plateau_patience)
            if recipe.plateau_patience is not None
            else None
        )
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.history = _History()

    def run(self) -> Iterator[Emission]:
        yield from self._restore()
        with scalar_writer(self.setting.tensorboard) as write:
            while self.history.epoch < self.recipe.epochs and not self._must_stop():
                self._train_epoch()
                self.history.epoch += 1
                if self._evaluation_is_due():
                    for name, value in self._evaluate().items():
                        if name != "epoch":
                            write(name, value, self.history.epoch)
                    self._save()
                self.setting.progress(self.history.epoch / self.recipe.epochs)
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        yield from self._results()

    def _must_stop(self) -> bool:
        done = self.recipe.stop_at_target and self.history.steps_to_target is not None
        return done or self.history.stopped_early or self._has_diverged()

    def _has_diverged(self) -> bool:
        """Tell whether the first bad step, and those to be shown after it, are past."""
        bad = self.history.first_bad_step
        return bad is not None and self.history.step >= bad + self.recipe.after_divergence

    def _evaluation_is_due(self) -> bool:
        if self.history.first_bad_step is not None:
            return False
        is_last = self.history.epoch == self.recipe.epochs or self._must_stop()
        return is_last or self.history.epoch % self.recipe.evaluate_every == 0

    def _batches(self) -> Iterator[Split]:
        split, size = self.data.train, self.recipe.batch_size
        if size is None:
            yield split
            return
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.history.epoch)
        order = torch.randperm(len(split.x), generator=generator).to(split.x.device)
        for chosen in order.split(size):
            # BatchNorm has no statistics of a single sample.
            if len(chosen) > 1:
                yield Split(split.x[chosen], split.y[chosen])

    def _train_epoch(self) -> None:
        history = self.history
        for x, y in self._batches():
            loss = loss_of(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            history.step += 1
            self._observe(loss.item())
            if self._has_diverged():
                return
            self._clip()
            self.optimizer.step()

    def _observe(self, loss: float) -> None:
        """Record the loss of this step, and the metrics of the gradients it gave."""
        history = self.history
        if history.step == 1:
            history.first_loss = loss
        history.last_loss = loss
        if history.first_bad_step is None and is_bad(loss, history.first_loss):
            history.first_bad_step = history.step
        if self.recipe.target_metric == "train_loss":
            # This is the loss before the step's update.
            self._check_target(loss, history.step - 1)
        if history.step % self.recipe.record_every == 0 or history.step == 1 or history.first_bad_step is not None:
            self._log(history.steps, "step", history.step)
            self._log(history.steps, "train_loss", loss)
            for name in self.recipe.model_metrics:
                self._log(history.steps, name, float(METRICS[name].function(self.model)))

    def _clip(self) -> None:
        if self.recipe.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), self.recipe.clip_value)
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)

    def _check_target(self, value: float, updates: int) -> None:
        target, history = self.recipe.target, self.history
        if target is None or history.steps_to_target is not None:
            return
        if value >= target if self.recipe.target_metric.endswith("accuracy") else value <= target:
            history.steps_to_target = updates

    def _evaluate(self) -> dict[str, float]:
        """Score the validation split; adapt the rate, remember the best weights, decide on stopping early."""
        history, recipe = self.history, self.recipe
        score = evaluate(self.model, self.data.validation)
        row = {"epoch": history.epoch, "validation_loss": score.loss, "learning_rate": self._rate()}
        if not self.data.train.y.is_floating_point():
            row["validation_accuracy"] = score.accuracy
        for name, value in row.items():
            self._log(history.epochs, name, value)
        if recipe.target_metric in row:
            self._check_target(row[recipe.target_metric], history.step)
        if self.scheduler is not None:
            self.scheduler.step(score.loss)
        if score.loss < history.best_loss:
            history.best_loss, history.best_epoch = score.loss, history.epoch
            if recipe.early_stopping is not None:
                # A state_dict shares its tensors with the model: without the copy, "best" would follow the training.
                self.best_weights = copy.deepcopy(self.model.state_dict())
        elif recipe.early_stopping is not None:
            history.stopped_early = history.epoch - history.best_epoch >= recipe.early_stopping
        return {**row, "train_loss": history.last_loss}

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    @staticmethod
    def _log(columns: dict[str, list[float]], name: str, value: float) -> None:
        columns.setdefault(name, []).append(value)

    def _results(self) -> Iterator[Emission]:
        history, unit = self.history, loss_unit(self.data.train.y)
        units = {"train_loss": unit, "validation_loss": unit, "validation_accuracy": "fraction", "learning_rate": "1"}
        units |= {name: METRICS[name].unit for name in self.recipe.model_metrics}
        for axis, columns in (("step", history.steps), ("epoch", history.epochs)):
            coordinates = [int(c) for c in columns.pop(axis, [])]
            for name, values in columns.items():
                yield Measurement(name, units[name], values, {axis: coordinates})
        if history.first_bad_step is None and not all(p.isfinite().all() for p in self.model.parameters()):
            history.first_bad_step = history.step
        diverged = history.first_bad_step is not None
        scores = {
            name: Score(nan, nan) if diverged else evaluate(self.model, split)
            for name, split in (("train", self.data.train), ("test", self.data.test))
        }
        yield scalar("final_train_loss", unit, scores["train"].loss)
        yield scalar("best_validation_loss", unit, nan if diverged else history.best_loss)
        yield scalar("test_loss", unit, scores["test"].loss)
        if not self.data.train.y.is_floating_point():
            yield scalar("test_accuracy", "fraction", scores["test"].accuracy)
        if self.recipe.target is not None:
            yield scalar(
                "steps_to_target", "steps", inf if history.steps_to_target is None else history.steps_to_target
            )
        yield classify(
            first_bad_step=history.first_bad_step,
            final_loss=scores["train"].loss,
            constant_loss=constant_loss(self.data.train.y),
            reached_target=self.recipe.target is None or history.steps_to_target is not None,
        )

    def _save(self) -> None:
        if self.setting.checkpoint is None or not self.recipe.keep_checkpoint:
            return
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "best_weights": self.best_weights,
            "history": vars(self.history),
            "rng": torch.get_rng_state(),  # dropout draws from it
            "cuda_rng": torch.cuda.get_rng_state() if self.setting.device == "cuda" else None,
        }
        checkpoint.save(self.setting.checkpoint, state)

    def _restore(self) -> Iterator[Note]:
        """Continue from the trial's checkpoint; start anew where it is damaged, and say so in the record."""
        path = self.setting.checkpoint
        if path is None or not path.exists():
            return
        try:
            state = checkpoint.load(path)
        except UserError as error:
            if self.setting.strict_checkpoints:
                raise
            yield Note(f"started anew: {error}")
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.best_weights = state["best_weights"]
        self.history = _History(**state["history"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])
