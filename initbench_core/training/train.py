"""The one training loop of the suite: SGD with everything an experiment here varies.

It yields what was measured, then the outcome. Batches are a function of (seed, epoch), so that a training continued
from a checkpoint ends in the same numbers as one that was never interrupted.
"""

import copy
import time
from collections.abc import Iterator
from math import nan
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from initbench_core.errors import UserError
from initbench_core.networks.fused import with_kernels
from initbench_core.records.schema import Emission, Note
from initbench_core.training import checkpoint
from initbench_core.training.data import Data, Split
from initbench_core.training.evaluation import evaluate, loss_of
from initbench_core.training.metrics import METRICS, names_of
from initbench_core.training.recipe import Recipe
from initbench_core.training.setting import Setting
from initbench_core.training.tensorboard import scalar_writer
from initbench_core.training.trial_log import History, TrialLog, batch_bounds, batch_order

__all__ = ["Recipe", "train"]


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
        recipe's model metrics by step; single numbers: "final_train_loss" and "final_train_accuracy" (in evaluation
        mode, over the whole split), "best_validation_loss" and "best_validation_accuracy", "test_loss" and
        "test_accuracy" (all nan where it diverged), "steps_to_target" (updates made), "epochs_to_target" and
        "seconds_to_target" (all inf: not within the budget), "train_seconds" and "samples_per_second" (evaluations
        left out), on CUDA "peak_memory"; then the Outcome. Accuracies are there for classes only.

    Raises:
        UserError: the target says nothing (a constant predictor meets it), or a checkpoint is damaged.
    """
    yield from _Training(model, data, recipe, seed, setting).run()


class _Training:
    def __init__(self, model: nn.Module, data: Data, recipe: Recipe, seed: int, setting: Setting) -> None:
        self.model = model.to(setting.device).train()
        # The same parameters and buffers, with the kernels' operators where they serve.
        self.network = with_kernels(self.model, setting.kernels)
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
        self.log = TrialLog(recipe, self.data)

    def run(self) -> Iterator[Emission]:
        yield from self._restore()
        log = self.log
        with scalar_writer(self.setting.tensorboard) as write:
            while log.history.epoch < self.recipe.epochs and not log.must_stop():
                self._train_epoch()
                log.history.epoch += 1
                if log.evaluation_is_due():
                    self._evaluate()
                    for name, value in log.latest().items():
                        write(name, value, log.history.epoch)
                    self._save()
                self.setting.progress(log.history.epoch / self.recipe.epochs)
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        log.finish(weights_are_finite=all(p.isfinite().all() for p in self.model.parameters()))
        splits = {} if log.is_bad() else {"train": self.data.train, "test": self.data.test}
        yield from log.results({name: evaluate(self.network, split) for name, split in splits.items()})

    def _batches(self) -> Iterator[Split]:
        split, size = self.data.train, self.recipe.batch_size
        if size is None:
            yield split
            return
        order = batch_order(len(split.x), seed=self.seed, epoch=self.log.history.epoch).to(split.x.device)
        for start, stop in batch_bounds(len(split.x), size):
            chosen = order[start:stop]
            yield Split(split.x[chosen], split.y[chosen])

    def _train_epoch(self) -> None:
        before = time.perf_counter()
        for x, y in self._batches():
            loss = loss_of(self.network(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            value, now = loss.item(), time.perf_counter()
            self.log.spend(now - before)
            before = now
            is_recorded = self.log.observe(value, len(x))
            if is_recorded:
                for name in names_of("model", self.recipe.model_metrics):
                    self.log.record_step(name, float(METRICS[name].function(self.model)))
            self._update(is_recorded)
            if self.log.has_diverged():
                break
        self.log.spend(time.perf_counter() - before)

    def _update(self, is_recorded: bool) -> None:
        """Clip and take the step, unless the training has diverged; record the metrics of the update."""
        names = names_of("update", self.recipe.model_metrics) if is_recorded else []
        if self.log.has_diverged():
            for name in names:
                self.log.record_step(name, nan)
            return
        old = self._parameters() if names else []
        self._clip()
        self.optimizer.step()
        if names:
            changes = [before - after for before, after in zip(old, self._parameters(), strict=True)]
            for name in names:
                self.log.record_step(name, float(METRICS[name].function(old, changes, 1.0)))

    def _parameters(self) -> list[torch.Tensor]:
        """Return copies of all parameters, those of one network, [1, ...]."""
        return [p.detach().unsqueeze(0).clone() for p in self.model.parameters()]

    def _clip(self) -> None:
        if self.recipe.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), self.recipe.clip_value)
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)

    def _evaluate(self) -> None:
        """Score the validation split; adapt the rate, remember the best weights."""
        score = evaluate(self.network, self.data.validation)
        is_best = self.log.evaluated(score, float(self.optimizer.param_groups[0]["lr"]))
        if self.scheduler is not None:
            self.scheduler.step(score.loss)
        if is_best and self.recipe.early_stopping is not None:
            # A state_dict shares its tensors with the model: without the copy, "best" would follow the training.
            self.best_weights = copy.deepcopy(self.model.state_dict())

    def _save(self) -> None:
        if self.setting.checkpoint is None or not self.recipe.keep_checkpoint:
            return
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "best_weights": self.best_weights,
            "history": vars(self.log.history),
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
        self.log.history = History(**state["history"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])
