"""The hyperparameters of a training, and what a target must ask for."""

from collections.abc import Sequence
from dataclasses import dataclass

from initbench_core.errors import ConfigError
from initbench_core.training.data import Data
from initbench_core.training.evaluation import constant_accuracy, constant_loss


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
        target: training succeeded when `target_metric` gets there; None asks for nothing.
        target_metric: "train_loss", "validation_loss" (at most the target), "validation_accuracy" (at least) or
            "final_train_accuracy" (at least; it is known at the end only).
        stop_at_target: whether training ends when the target is reached.
        record_every: steps between recorded training losses.
        evaluate_every: epochs between evaluations on the validation split.
        after_divergence: steps still taken after the first bad one, to show what follows.
        model_metrics: metrics of a model or of its update, recorded with the training loss.
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

    def is_met_by(self, value: float) -> bool:
        """Tell whether a value of `target_metric` meets the target."""
        if self.target is None:
            return False
        return value >= self.target if self.target_metric.endswith("accuracy") else value <= self.target


def check_target(recipe: Recipe, data: Data) -> None:
    """Refuse a target that says nothing.

    Raises:
        ConfigError: the best predictor that ignores its input meets it already.
    """
    y = (data.train if recipe.target_metric in ("train_loss", "final_train_accuracy") else data.validation).y
    value = constant_accuracy(y) if recipe.target_metric.endswith("accuracy") else constant_loss(y)
    if recipe.is_met_by(value):
        better = "above" if recipe.target_metric.endswith("accuracy") else "below"
        raise ConfigError(
            f"the target {recipe.target_metric} {recipe.target:g} on {data.name} says nothing: a constant predictor "
            f"has {value:.4g} already; choose one {better} that"
        )
