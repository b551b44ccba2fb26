"""What `fuse_batch_norm_relu` has to keep, asserted for one model."""

import copy
from typing import Any

import torch
from tolerances import EXACT
from torch import Tensor, nn

from initbench_kernels import fuse_batch_norm_relu


def _outputs(model: nn.Module, *arguments: Any) -> list[Tensor]:
    """Return output, all gradients and all buffers after one training step's forward and backward."""
    given = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    leaf = given[0].requires_grad_()
    # A view of it, for models that change their input in place.
    y = model(leaf.view_as(leaf) * 1, *given[1:])
    grads = torch.autograd.grad(y.square().sum(), [leaf, *model.parameters()], allow_unused=True)
    return [y, *(g for g in grads if g is not None), *(b.clone() for b in model.buffers())]


def check(model: nn.Module, x: Tensor, counts: tuple[int, int, int], *more: Any) -> nn.Module:
    """Assert that fusing gives the same bits in training and evaluation, and keeps state_dict.

    Args:
        model: to fuse; it is left as it is, running statistics apart.
        x: its first argument.
        counts: how many batch norms are to be fused, with a residual, and left.
        more: its other arguments.

    Returns:
        The fused model, with statistics of its own.
    """
    fused = fuse_batch_norm_relu(copy.deepcopy(model))
    report = fused.fusion_report
    assert (len(report.fused), len(report.with_residual), len(report.left)) == counts, str(report)
    assert list(fused.state_dict()) == list(model.state_dict())
    for training in (True, False):
        wanted, actual = (_outputs(m.train(training), x, *more) for m in (model, fused))
        for a, b in zip(actual, wanted, strict=True):
            torch.testing.assert_close(a, b, **EXACT)
    return fused
