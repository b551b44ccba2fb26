"""The specification of batch normalization followed by ReLU: formulas in plain PyTorch.

Every other implementation in this package must agree with these functions. They work in float64 as well, where they
are the oracle of the tests, and they are differentiable, which is how the Triton operator gets its second derivative.

    x_hat = (x - mean) * rstd
    y = relu(x_hat * weight + bias + residual)

Source: Ioffe and Szegedy, "Batch Normalization", 2015, https://arxiv.org/abs/1502.03167, algorithm 1 and section 3.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """What normalization needs to know of a batch, one value per channel.

    Attributes:
        mean: [C] mean over batch and space.
        var: [C] biased variance (divided by M).
        values: M, the number of values per channel.
    """

    mean: Tensor
    var: Tensor
    values: int


class Gradients(NamedTuple):
    """Gradients of `forward`, each in the arithmetic's dtype.

    Attributes:
        dx: as `x`.
        dweight: [C].
        dbias: [C].
        dresidual: as `x`; also the gradient of the pre-activation.
    """

    dx: Tensor
    dweight: Tensor
    dbias: Tensor
    dresidual: Tensor


def arithmetic_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float64 stays, everything narrower becomes float32."""
    return torch.promote_types(x.dtype, torch.float32)


def per_channel(values: Tensor | None, x: Tensor, default: float) -> Tensor | float:
    """Shape [C] values so that they broadcast against `x` [N, C, ...], in the arithmetic's dtype."""
    if values is None:
        return default
    return values.to(arithmetic_dtype(x)).reshape(1, -1, *[1] * (x.ndim - 2))


def _reduced(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def statistics(x: Tensor) -> Statistics:
    """Return mean and biased variance of each channel of `x` [N, C, ...], in two passes."""
    wide = x.to(arithmetic_dtype(x))
    mean = wide.mean(_reduced(x))
    var = (wide - per_channel(mean, x, 0.0)).square().mean(_reduced(x))
    return Statistics(mean, var, x.numel() // x.shape[1])


def updated_running(running: Tensor, batch: Tensor, momentum: float) -> Tensor:
    """Return (1 - momentum) * running + momentum * batch, in the dtype of `running`.

    The batch variance that enters here is the unbiased one, var * M / (M - 1), while normalization uses the biased
    one: PyTorch's convention since 0.1.
    """
    wide = torch.promote_types(running.dtype, batch.dtype)
    return ((1 - momentum) * running.to(wide) + momentum * batch.to(wide)).to(running.dtype)


def pre_activation(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Return (x - mean) * rstd * weight + bias + residual.

    The mean is subtracted before anything is scaled: x * scale + (bias - mean * scale) cancels where the mean is large
    against the standard deviation.

    Args:
        x: [N, C, ...] float16, bfloat16, float32 or float64, any strides.
        mean: [C] the batch's mean, or the running mean.
        rstd: [C] 1 / sqrt(var + eps).
        weight: [C] scale, gamma in the paper; None means 1.
        bias: [C] shift, beta in the paper; None means 0.
        residual: as `x`, added before the ReLU; None means 0.

    Returns:
        As `x`, in the arithmetic's dtype.
    """
    wide = x.to(arithmetic_dtype(x))
    scale = rstd if weight is None else rstd * weight
    z = (wide - per_channel(mean, x, 0.0)) * per_channel(scale, x, 1.0) + per_channel(bias, x, 0.0)
    return z if residual is None else z + residual


def forward(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Return relu(pre_activation(...)) in the dtype of `x`; NaN stays NaN. Arguments as in `pre_activation`."""
    return pre_activation(x, mean, rstd, weight, bias, residual).relu().to(x.dtype)


def gradients(
    g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None = None, *, training: bool
) -> Gradients:
    """Return the gradients of `forward`, given g, that of the pre-activation.

    Over the M values of a channel:

        dbias   = sum g
        dweight = sum g * x_hat
        dx      = weight * rstd * (g - dbias / M - x_hat * dweight / M)    training: mean and rstd depend on x
        dx      = weight * rstd * g                                       otherwise
        dresidual = g

    Args:
        g: as `x`, in the arithmetic's dtype; see `masked`.
        x: as given to `forward`.
        mean: as given to `forward`.
        rstd: as given to `forward`.
        weight: as given to `forward`.
        training: whether mean and rstd are the batch's own.

    Source: Ioffe and Szegedy 2015, section 3, with dvar and dmean substituted.
    """
    x_hat = (x.to(g.dtype) - per_channel(mean, x, 0.0)) * per_channel(rstd, x, 1.0)
    dbias = g.sum(_reduced(x))
    dweight = (g * x_hat).sum(_reduced(x))
    centred = g
    if training:
        values = x.numel() // x.shape[1]
        centred = g - per_channel(dbias / values, x, 0.0) - x_hat * per_channel(dweight / values, x, 0.0)
    dx = centred * per_channel(rstd if weight is None else rstd * weight, x, 1.0)
    return Gradients(dx, dweight, dbias, g)


def masked(dy: Tensor, judged: Tensor) -> Tensor:
    """Return `dy` in the arithmetic's dtype, 0 where `judged`, the pre-activation or the sign of the output, is <= 0.

    As in torch.relu: 0 passes no gradient, and NaN does.
    """
    return torch.where(judged <= 0, 0.0, dy.to(arithmetic_dtype(dy)))


def backward(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    training: bool,
) -> Gradients:
    """Return the gradients of `forward` for the gradient `dy` of its output; other arguments as in `forward`."""
    g = masked(dy, pre_activation(x, mean, rstd, weight, bias, residual))
    return gradients(g, x, mean, rstd, weight, training=training)
