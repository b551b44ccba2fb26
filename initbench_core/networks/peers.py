"""Other projects' BatchNorm+ReLU behind the arguments of `F.batch_norm`; each is imported by its first call.

`State` is what follows x: running_mean, running_var, weight, bias, training, momentum, eps.

What they cannot do is not papered over: a result that is wrong is found by the check before anything is timed.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

State = tuple[Tensor | None, Tensor | None, Tensor, Tensor, bool, float, float]


def refuses_but_images(x: Tensor) -> str | None:
    """Return why a layer for images [N, C, H, W] does not take `x`."""
    return None if x.ndim == 4 else "takes [N, C, H, W] only"


def refuses_but_half_nhwc(x: Tensor) -> str | None:
    """Return why apex's kernels do not take `x`."""
    fits = x.ndim == 4 and x.dtype == torch.float16 and x.is_contiguous(memory_format=torch.channels_last)
    return None if fits and x.shape[1] % 4 == 0 else "takes float16 [N, C, H, W] in channels_last with C % 4 == 0 only"


def _lend(
    layer: nn.Module,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> None:
    """Give a layer this state without the cost of registering its tensors."""
    layer._parameters.update(weight=weight, bias=bias)  # type: ignore[call-overload]
    # None of the compared functions counts batches.
    layer._buffers.update(running_mean=running_mean, running_var=running_var, num_batches_tracked=None)
    layer.training, layer.momentum, layer.eps = training, momentum, eps  # type: ignore[assignment]


@functools.cache
def _timm_layer() -> nn.Module:
    from timm.layers import BatchNormAct2d

    return BatchNormAct2d(1)


def timm_batch_norm_act(x: Tensor, *state: *State) -> Tensor:
    """Call timm's BatchNormAct2d, whose ReLU is in place."""
    layer = _timm_layer()
    _lend(layer, *state)
    return layer(x)


@functools.cache
def _apex_layer(channels: int) -> nn.Module:
    from apex.contrib.groupbn.batch_norm import BatchNorm2d_NHWC

    return BatchNorm2d_NHWC(channels, fuse_relu=True)


def apex_batch_norm_relu(x: Tensor, *state: *State) -> Tensor:
    """Call apex's layer, which wants [N, H, W, C] as sizes and not as strides."""
    layer = _apex_layer(x.shape[1])
    _lend(layer, *state)
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FlagGemsBatchNormReLU(torch.autograd.Function):
    """FlagGems' operators, called one by one: patched into torch they would replace the baseline's as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *state: *State) -> Tensor:
        from flag_gems import ops

        running_mean, running_var, weight, bias, training, momentum, eps = state
        normalized, mean, rstd = ops.batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps)
        y: Tensor = ops.relu_(normalized)
        ctx.save_for_backward(x, weight, running_mean, running_var, mean, rstd, y)
        ctx.training, ctx.eps = training, eps
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from flag_gems import ops

        x, weight, running_mean, running_var, mean, rstd, y = ctx.saved_tensors
        g = ops.threshold_backward(grads[0], y, 0.0)
        dx, dweight, dbias = ops.batch_norm_backward(
            g, x, weight, running_mean, running_var, mean, rstd, ctx.training, ctx.eps, [True, True, True]
        )
        return dx, None, None, dweight, dbias, None, None, None
