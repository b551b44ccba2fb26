"""Losses: which one fits a target, what the constant predictor gets, and how a model does on a split."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from initbench_core.training.data import Split, class_entropy
from initbench_core.training.metrics import METRICS

EVALUATION_BATCH = 1000

# Times the least-squares loss: what counts as having learned a line.
LINE_TARGET = 1.05


class Score(NamedTuple):
    """Mean loss, and accuracy where the targets are classes (nan elsewhere)."""

    loss: float
    accuracy: float


def loss_of(prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy of logits [N, K] for classes `y` [N] (int64), mean squared error for real `y`."""
    return F.mse_loss(prediction, y) if y.is_floating_point() else F.cross_entropy(prediction, y)


def losses_of(predictions: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return `loss_of` of several networks at once.

    Args:
        predictions: [S, K, N], logits or real values, as `StackedNetwork` lays them out.
        y: their targets, [S, N] int64 or [S, N, K].

    Returns:
        The mean loss of each network, [S].
    """
    if y.is_floating_point():
        return (predictions - y.transpose(1, 2)).square().mean(dim=(1, 2))
    # The gradient of a gather is deterministic on every device, that of F.cross_entropy over [S, K, N] is not.
    return -predictions.log_softmax(dim=1).gather(1, y.unsqueeze(1)).mean(dim=(1, 2))


def loss_unit(y: torch.Tensor) -> str:
    """Return the unit of `loss_of`: "nats" for classes, "squared error" for real targets."""
    return "squared error" if y.is_floating_point() else "nats"


def constant_loss(y: torch.Tensor) -> float:
    """Return the loss of the best predictor that ignores its input: variance of `y`, or entropy of its classes."""
    return y.double().var(unbiased=False).item() if y.is_floating_point() else class_entropy(y.cpu())


def constant_accuracy(y: torch.Tensor) -> float:
    """Return the accuracy of the best predictor that ignores its input: the frequency of the largest class of `y`."""
    return float(torch.bincount(y).max() / len(y))


def least_squares_loss(split: Split) -> float:
    """Return the mean squared error of the best affine function of x [N, features] for y [N, 1]."""
    design = torch.cat([split.x, torch.ones(len(split.x), 1)], dim=1).double()
    target = split.y.double()
    solution = torch.linalg.lstsq(design, target).solution
    return float((design @ solution - target).square().mean())


@torch.no_grad()
def evaluate(model: nn.Module, split: Split) -> Score:
    """Score `model` in evaluation mode on `split`; the mode it was in is restored."""
    was_training = model.training
    model.eval()
    loss, correct = 0.0, 0.0
    for x, y in zip(split.x.split(EVALUATION_BATCH), split.y.split(EVALUATION_BATCH), strict=True):
        prediction = model(x)
        loss += loss_of(prediction, y).item() * len(x)
        if not y.is_floating_point():
            correct += METRICS["accuracy"].function(prediction, y).item() * len(x)
    model.train(was_training)
    accuracy = float("nan") if split.y.is_floating_point() else correct / len(split.x)
    return Score(loss / len(split.x), accuracy)
