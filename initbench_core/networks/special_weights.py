"""Weights that no distribution gives: orthogonal and Dirac matrices, made whole on the CPU from the keyed stream."""

import math
from collections.abc import Callable

import torch
from torch import nn

from initbench_core.errors import ConfigError
from initbench_kernels.random_fill import Fill, fill_


def check_shape(kind: str, shape: tuple[int, ...]) -> None:
    """Refuse a shape that has no such weight.

    Raises:
        ConfigError: an "orthogonal" weight of fewer than 2 dimensions, or a "dirac" one of other than 3 to 5.
    """
    if kind == "orthogonal" and len(shape) < 2:
        raise ConfigError(f"an orthogonal weight needs at least 2 dimensions, got shape {shape}")
    if kind == "dirac" and len(shape) not in (3, 4, 5):
        raise ConfigError(f"a Dirac weight needs 3 to 5 dimensions (a convolution), got shape {shape}")


def orthogonal_weight(key: str, shape: tuple[int, ...], gain: float) -> Callable[[int], torch.Tensor]:
    """Return the function of a seed that makes a (semi-)orthogonal weight.

    The QR factorization of a Gaussian matrix, signs fixed by the diagonal of R, is uniform over orthogonal matrices
    (Mezzadri 2007); as in `nn.init.orthogonal_` all but the first dimension are flattened. It runs in float64 on the
    CPU: once rounded, weights depend on the LAPACK at hand in the last bit at most.

    Args:
        key: of the stream.
        shape: of the weight, at least 2 dimensions.
        gain: factor on the matrix.

    Raises:
        ConfigError: fewer than 2 dimensions.
    """
    check_shape("orthogonal", shape)

    def make(seed: int) -> torch.Tensor:
        rows, columns = shape[0], math.prod(shape[1:])
        gaussian = torch.empty(rows, columns, device="cpu", dtype=torch.float32)
        fill_([Fill(gaussian, "normal", key)], seed=seed, backend="eager")
        tall = gaussian.double() if rows >= columns else gaussian.double().t()
        q, r = torch.linalg.qr(tall)
        q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
        return (gain * (q if rows >= columns else q.t())).reshape(shape)

    return make


def dirac_weight(shape: tuple[int, ...], groups: int) -> Callable[[int], torch.Tensor]:
    """Return the function that makes a weight which hands each channel on (`nn.init.dirac_`, per group).

    Args:
        shape: of a convolution's weight, 3 to 5 dimensions.
        groups: groups along the first dimension, which they divide.

    Raises:
        ConfigError: another number of dimensions, or groups that do not divide the first.
    """
    check_shape("dirac", shape)
    if shape[0] % groups:
        raise ConfigError(f"a Dirac weight of {groups} groups needs as many parts, got shape {shape}")

    def make(_: int) -> torch.Tensor:
        return nn.init.dirac_(torch.empty(shape, device="cpu", dtype=torch.float32), groups)

    return make
