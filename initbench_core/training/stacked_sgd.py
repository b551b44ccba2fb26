"""The step of SGD of several networks at once: each clips its gradients by itself, all descend together."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from initbench_core.training.metrics import norms_of
from initbench_core.training.recipe import Recipe


def clip_(gradients: Sequence[Tensor], recipe: Recipe) -> None:
    """Clip the gradients [S, ...] of each network by themselves, as `nn.utils.clip_grad_*` do for one."""
    if recipe.clip_value is not None:
        for gradient in gradients:
            gradient.clamp_(-recipe.clip_value, recipe.clip_value)
    if recipe.clip_norm is not None:
        factors = (recipe.clip_norm / (norms_of(gradients) + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))


def directions(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], momenta: Sequence[Tensor], recipe: Recipe
) -> Sequence[Tensor]:
    """Return what `descend_` with the same arguments will subtract, but for the factor of the learning rate."""
    if recipe.weight_decay:
        gradients = torch._foreach_add(list(gradients), list(parameters), alpha=recipe.weight_decay)
    return torch._foreach_add(list(gradients), list(momenta), alpha=recipe.momentum) if recipe.momentum else gradients


def descend_(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], momenta: Sequence[Tensor], recipe: Recipe
) -> None:
    """Take the step of SGD in place, as `torch.optim.SGD` does.

    Fused it is one pass over parameters, gradients and momenta, which are too much for a CPU's caches.

    Args:
        parameters: contiguous, as all others: the fused step reads memory in its order.
        gradients: as the parameters.
        momenta: as the parameters, 0 before the first step; left alone where the recipe has no momentum.
        recipe: rate, momentum and weight decay.
    """
    sgd(
        list(parameters),
        list(gradients),
        list(momenta),
        fused=True,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )
