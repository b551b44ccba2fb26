"""All seeds of a cell trained together: many small networks at the price of few.

One by one, small networks are all overhead. Here they are one stack (`networks.stacked`): every operation serves all of
them. Each keeps its own batches, losses and outcome; one that is finished (diverged, at its target, stopped early)
leaves the stack, and the NaN of one never touches another.
"""

import time
from collections.abc import Callable, Sequence
from math import nan
from typing import Any

import torch
from torch import nn

from initbench_core.networks.stacked import StackedNetwork
from initbench_core.records.schema import Emission
from initbench_core.training.data import Data, Split
from initbench_core.training.evaluation import EVALUATION_BATCH, Score, losses_of
from initbench_core.training.metrics import METRICS, names_of
from initbench_core.training.recipe import Recipe
from initbench_core.training.seeding import seeded
from initbench_core.training.setting import Setting
from initbench_core.training.stacked_sgd import clip_, descend_, directions
from initbench_core.training.trial_log import TrialLog, batch_bounds, batch_order

Prepare = Callable[[Any, Setting], tuple[nn.Module, Data, Recipe]]
Look = Callable[[Sequence[nn.Module], Data, Recipe], Sequence[Sequence[Emission]]]

# Bytes of weights in one stack. Training takes some six times as much memory. On a CPU networks of 300 units are no
# faster together than one by one, and this many bytes of them train for under ten minutes: what an interruption costs.
STACK_LIMIT = {"cpu": 2**27, "cuda": 2**31}


def stack_size(weights: int, device: str) -> int:
    """Return how many networks of so many float32 weights train together, at least 1."""
    return max(1, STACK_LIMIT[device] // max(1, 4 * weights))


def train_together(
    models: Sequence[nn.Module], data: Data, recipe: Recipe, *, seeds: Sequence[int], setting: Setting
) -> list[list[Emission]]:
    """Train several networks of one architecture at once, in place.

    Entry i of the result is what `train(models[i], data, recipe, seed=seeds[i], setting=setting)` yields, up to the
    rounding of sums in another order. Times and memory are each training's share of the stack's.

    Args:
        models: networks that `StackedNetwork` takes; moved to the device.
        data: as in `train`, the same for all.
        recipe: as in `train`, the same for all; `plateau_patience` and `keep_checkpoint` are for single trainings.
        seeds: one for each model.
        setting: device and progress; checkpoints and TensorBoard files are for single trainings.

    Raises:
        ValueError: networks or a recipe that cannot be trained together; nothing has been trained.
        UserError: as `train`.
    """
    if len(models) != len(seeds):
        raise ValueError(f"{len(models)} networks but {len(seeds)} seeds")
    if recipe.plateau_patience is not None or recipe.keep_checkpoint:
        raise ValueError("plateau_patience and keep_checkpoint are for a training of its own: use train()")
    return _Together(models, data, recipe, seeds, setting).run()


def train_cell(
    prepare: Prepare, configs: Sequence[Any], setting: Setting, look: Look | None = None
) -> list[list[Emission]]:
    """Train configurations that differ in nothing but their seed, in one stack.

    Args:
        prepare: returns model, data and recipe of a configuration; data and recipe do not depend on its seed.
        configs: one or more.
        setting: as in `train`.
        look: what is measured of the networks before their training, as `probing.look`; None measures nothing.

    Returns:
        For each configuration what the look and its training yield.

    Raises:
        ValueError: their networks are too large for one stack; nothing has been trained.
    """
    models: list[nn.Module] = []
    for config in configs:
        model, data, recipe = seeded(prepare, config, setting)
        weights = sum(p.numel() for p in model.parameters())
        if len(configs) > stack_size(weights, setting.device):
            raise ValueError(
                f"{len(configs)} networks of {weights:,} weights are too large for one stack: let weights(config) of "
                f"their experiment count them, and they become several jobs"
            )
        models.append(model)
    looks: Sequence[Sequence[Emission]] = look(models, data, recipe) if look else [[] for _ in models]
    trained = train_together(models, data, recipe, seeds=[config.seed for config in configs], setting=setting)
    return [[*seen, *emissions] for seen, emissions in zip(looks, trained, strict=True)]


class _Together:
    def __init__(
        self, models: Sequence[nn.Module], data: Data, recipe: Recipe, seeds: Sequence[int], setting: Setting
    ) -> None:
        self.models = [model.to(setting.device).train() for model in models]
        self.stack = StackedNetwork(self.models, backend=setting.kernels)
        self.data = data.to(setting.device)
        self.recipe = recipe
        self.seeds = seeds
        self.setting = setting
        self.logs = [TrialLog(recipe, self.data, sharing=len(models)) for _ in models]
        # Which trial each network of the stack is.
        self.trials = list(range(len(models)))
        self.parameters = self.stack.trained_parameters()
        self.momenta = [torch.zeros_like(p) for p in self.parameters]
        # All batches of a step are megabytes: handed back and asked for anew at every step, they cost the memory's
        # clearing each time, seven times as much as the copying.
        samples = len(models) * min(recipe.batch_size or 0, len(self.data.train.x))
        self.batches = self.data.train.x.new_empty(samples, *self.data.train.x.shape[1:])

    def run(self) -> list[list[Emission]]:
        for epoch in range(self.recipe.epochs):
            if self.trials:
                self._train_epoch(epoch)
                self._evaluate()
                self._retire([trial for trial in self.trials if self.logs[trial].must_stop()])
            self.setting.progress((epoch + 1) / self.recipe.epochs)
        self._retire(self.trials)
        return self._results()

    def _train_epoch(self, epoch: int) -> None:
        split, size = self.data.train, self.recipe.batch_size
        orders = torch.empty(len(self.trials), 0, dtype=torch.int64)
        if size is not None:
            orders = torch.stack([batch_order(len(split.x), seed=self.seeds[t], epoch=epoch) for t in self.trials])
        orders = orders.to(split.x.device)
        before = time.perf_counter()
        for start, stop in batch_bounds(len(split.x), size):
            x, y = (split.x[None], split.y[None]) if size is None else self._gather(split, orders[:, start:stop])
            predictions = self.stack(x)
            losses = losses_of(predictions, y.expand(len(predictions), *y.shape[1:]))
            # The fused step of SGD reads memory in its order.
            gradients = [g.contiguous() for g in torch.autograd.grad(losses.sum(), self.parameters)]
            values, now = losses.tolist(), time.perf_counter()
            recorded = self._observe(values, stop - start, gradients, (now - before) / len(values))
            before = now
            kept = self._retire([trial for trial in self.trials if self.logs[trial].has_diverged()])
            if kept is not None:
                orders, gradients = orders[kept], [g[kept] for g in gradients]
            if not self.trials:
                return
            self._update(gradients, recorded)
        for trial in self.trials:
            self.logs[trial].spend((time.perf_counter() - before) / len(self.trials))
            self.logs[trial].history.epoch += 1

    def _gather(self, split: Split, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the samples at `chosen` [S, N] as [S, N, ...], valid until the next call, and their targets."""
        x, rows = self.batches[: chosen.numel()], chosen.flatten()
        torch.index_select(split.x, 0, rows, out=x)
        y = split.y.index_select(0, rows)
        return x.view(*chosen.shape, *x.shape[1:]), y.view(*chosen.shape, *y.shape[1:])

    def _observe(self, losses: list[float], samples: int, gradients: list[torch.Tensor], seconds: float) -> list[int]:
        """Tell the logs of a step, and return the trials that record it."""
        recorded = []
        for trial, loss in zip(self.trials, losses, strict=True):
            self.logs[trial].spend(seconds)
            if self.logs[trial].observe(loss, samples):
                recorded.append(trial)
        for name in names_of("model", self.recipe.model_metrics):
            for trial in recorded:
                position = self.trials.index(trial)
                self.stack.store(position, self.models[trial], gradients)
                self.logs[trial].record_step(name, float(METRICS[name].function(self.models[trial])))
        # A trial that leaves takes no step: its update has no metrics.
        for name in names_of("update", self.recipe.model_metrics):
            for trial in recorded:
                if self.logs[trial].has_diverged():
                    self.logs[trial].record_step(name, nan)
        return recorded

    @torch.no_grad()
    def _update(self, gradients: list[torch.Tensor], recorded: list[int]) -> None:
        """Clip and take the step of SGD; record the metrics of the update."""
        recipe, parameters = self.recipe, self.parameters
        clip_(gradients, recipe)
        names = names_of("update", recipe.model_metrics) if recorded else []
        steps = directions(parameters, gradients, self.momenta, recipe) if names else []
        for name in names:
            values = METRICS[name].function(parameters, steps, recipe.lr).tolist()
            for trial, value in zip(self.trials, values, strict=True):
                if trial in recorded:
                    self.logs[trial].record_step(name, value)
        descend_(parameters, gradients, self.momenta, recipe)

    def _evaluate(self) -> None:
        """Score the validation split for the trials that are due; remember their best weights."""
        due = [self.logs[trial].evaluation_is_due() for trial in self.trials]
        if not any(due):
            return
        scores = _score(self.stack, self.data.validation)
        for position, (trial, score) in enumerate(zip(self.trials, scores, strict=True)):
            if due[position]:
                is_best = self.logs[trial].evaluated(score, self.recipe.lr)
                if is_best and self.recipe.early_stopping is not None:
                    self.stack.store(position, self.models[trial])

    def _retire(self, finished: list[int]) -> torch.Tensor | None:
        """Hand the networks of finished trials back and drop them; return the positions that stay, None for all."""
        if not finished:
            return None
        for position, trial in enumerate(self.trials):
            # With early stopping the model has its best weights already.
            if trial in finished and self.recipe.early_stopping is None:
                self.stack.store(position, self.models[trial])
        device = self.data.train.x.device
        kept = torch.tensor(
            [i for i, t in enumerate(self.trials) if t not in finished], device=device, dtype=torch.int64
        )
        self.trials = [trial for trial in self.trials if trial not in finished]
        self.stack.keep(kept)
        self.parameters = self.stack.trained_parameters()
        self.momenta = [m[kept] for m in self.momenta]
        return kept

    def _results(self) -> list[list[Emission]]:
        """Score the final weights on the splits that the results name."""
        for model, log in zip(self.models, self.logs, strict=True):
            log.finish(weights_are_finite=all(p.isfinite().all() for p in model.parameters()))
        whole = [i for i, log in enumerate(self.logs) if not log.is_bad()]
        scores: list[dict[str, Score]] = [{} for _ in self.logs]
        if whole:
            stack = StackedNetwork([self.models[i] for i in whole], backend=self.setting.kernels)
            for name, split in (("train", self.data.train), ("test", self.data.test)):
                for i, score in zip(whole, _score(stack, split), strict=True):
                    scores[i][name] = score
        return [list(log.results(of_trial)) for log, of_trial in zip(self.logs, scores, strict=True)]


@torch.no_grad()
def _score(stack: StackedNetwork, split: Split) -> list[Score]:
    """Score each network of the stack in evaluation mode on `split`; the mode it was in is restored."""
    was_training = stack.training
    stack.eval()
    networks = len(stack)
    loss, correct = (torch.zeros(networks, dtype=torch.float64, device=split.x.device) for _ in range(2))
    for x, y in zip(split.x.split(EVALUATION_BATCH), split.y.split(EVALUATION_BATCH), strict=True):
        predictions = stack(x[None])
        loss += losses_of(predictions, y.expand(networks, *y.shape)).double() * len(x)
        if not y.is_floating_point():
            # Not argmax, which takes 20 times as long over a dimension that is not the last.
            correct += (predictions.max(dim=1).indices == y).double().sum(dim=1)
    stack.train(was_training)
    accuracy = correct / len(split.x) if not split.y.is_floating_point() else torch.full_like(correct, nan)
    return [Score(*pair) for pair in zip((loss / len(split.x)).tolist(), accuracy.tolist(), strict=True)]
