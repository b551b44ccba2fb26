"""How a tensor lies in memory, as the kernels see it: rows of a matrix, cut into blocks of columns.

Three strided shapes cover every dense input of batch normalization:

- channels last ([R, C], 2-D inputs and channels_last ones): a column is a channel;
- channels in planes ([N, C, S], contiguous 3-D to 5-D inputs): a row is one sample, a channel is S columns of it;
- channels first ([C, M], a transposed 2-D input): planes of a single sample.

Anything else is copied once into one of them.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """[outer, channels, inner] with inner contiguous; channels last is inner == 1.

    Attributes:
        outer: number of rows.
        channels: C.
        inner: S, the neighbouring elements that share a channel.
    """

    outer: int
    channels: int
    inner: int


def _channels_last(x: Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous()


def layout_of(x: Tensor) -> Layout | None:
    """Classify a non-empty `x` [N, C, ...]; None where no dense layout fits and a copy is needed."""
    channels = x.shape[1]
    per_channel = x.numel() // channels
    if channels == 1 and x.is_contiguous():
        # One channel is one long plane: better than a matrix of a single column.
        return Layout(1, 1, per_channel)
    if _channels_last(x):
        return Layout(per_channel, channels, 1)
    if x.is_contiguous():
        return Layout(x.shape[0], channels, per_channel // x.shape[0])
    if x.transpose(0, 1).is_contiguous():
        return Layout(1, channels, per_channel)
    return None


def dense(x: Tensor) -> Tensor:
    """Return `x` itself where a layout fits it, else a copy in the memory format that `x` suggests."""
    # The kernels read memory as it is: a negation that PyTorch has put off is done here.
    x = x.resolve_neg()
    if x.numel() == 0 or layout_of(x) is not None:
        return x
    if x.ndim > 2 and x.stride(1) == 1:
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x.contiguous()


def like(t: Tensor, x: Tensor) -> Tensor:
    """Return `t` with the memory order of the dense tensor `x`: itself, or a copy."""
    # The stride of a dimension of size 1 says nothing.
    same = all(a == b for a, b, size in zip(t.stride(), x.stride(), x.shape, strict=True) if size > 1)
    return t if same and not t.is_neg() else torch.empty_like(x, dtype=t.dtype).copy_(t)


def broadcasts_to(t: Tensor, x: Tensor) -> bool:
    """Whether `t` broadcasts to the shape of `x`, whose own shape it leaves as it is."""
    return t.ndim <= x.ndim and all(a in (1, b) for a, b in zip(t.shape[::-1], x.shape[::-1], strict=False))
