"""LSUV (Mishkin & Matas 2016): layers scaled one after the other until each has unit variance on a batch of data."""

import contextlib
import math
from collections.abc import Iterator
from numbers import Integral

import torch
from torch import nn

from initbench_core.errors import ConfigError
from initbench_core.networks.fans import WEIGHT_LAYERS
from initbench_core.networks.named_parameters import named_parameters
from initbench_kernels.random_fill.layout import is_dtensor
from initbench_kernels.random_fill.parameters import as_float

TOLERANCE, MAX_ITERATIONS = 0.02, 10


def check_lsuv(batch: object, tolerance: object = TOLERANCE, max_iterations: object = MAX_ITERATIONS) -> None:
    """Refuse what `lsuv_` cannot work with; whether the batch fits the model, only a forward pass tells.

    Raises:
        ConfigError: the argument is named.
    """
    if not isinstance(batch, torch.Tensor) or batch.dim() == 0 or batch.numel() == 0 or batch.is_meta:
        got = (
            f"shape {tuple(batch.shape)} on {batch.device}" if isinstance(batch, torch.Tensor) else type(batch).__name__
        )
        raise ConfigError(f"lsuv: batch must be a tensor [N, ...] with values in it, got {got}")
    if not batch.isfinite().all():
        raise ConfigError("lsuv: batch has values that are nan or infinite")
    try:
        distance = as_float(tolerance, "tolerance")
    except ValueError as error:
        raise ConfigError(f"lsuv: {error}") from None
    if not 0 <= distance < math.inf:
        raise ConfigError(f"lsuv: tolerance must be finite and not negative, got {tolerance}")
    if not isinstance(max_iterations, Integral) or int(max_iterations) < 0:
        raise ConfigError(f"lsuv: max_iterations must be an integer that is not negative, got {max_iterations!r}")


def check_unsharded(model: nn.Module) -> None:
    """Refuse DTensor parameters: a rank sees part of a layer's output or of the data, and would scale by that part.

    Raises:
        ConfigError: the parameter is named.
    """
    for name, parameter, *_ in named_parameters(model, WEIGHT_LAYERS):
        if is_dtensor(parameter):
            raise ConfigError(f"lsuv: parameter {name!r} is sharded: scale the layers before that")


@contextlib.contextmanager
def unchanged_on_failure(model: nn.Module) -> Iterator[None]:
    """Give all parameters and buffers their values back if what happens inside raises; keeps a copy of them."""
    kept = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, values in kept:
                tensor.copy_(values)
        raise


def lsuv_(
    model: nn.Module, batch: torch.Tensor, *, tolerance: float = TOLERANCE, max_iterations: int = MAX_ITERATIONS
) -> None:
    """Scale each weight layer in place until its output has unit variance on `batch`.

    Layers are taken in the order in which the forward pass reaches them. A layer whose output does not vary on the
    batch is left as it is: no scale gives it unit variance.

    Args:
        model: a network whose weight layers are filled already (the paper: orthogonal).
        batch: an input batch [N, ...] of real data.
        tolerance: accepted distance of the variance from 1.
        max_iterations: rescalings per layer; a linear layer without bias needs one.

    Raises:
        ConfigError: an argument is not as described, the model is sharded or cannot take the batch. Whatever a forward
            pass raises, parameters and buffers are then what they were.
    """
    check_lsuv(batch, tolerance, max_iterations)
    check_unsharded(model)
    with unchanged_on_failure(model):
        scale_layers_(model, batch, tolerance, max_iterations)


@torch.no_grad()
def scale_layers_(
    model: nn.Module, batch: torch.Tensor, tolerance: float = TOLERANCE, max_iterations: int = MAX_ITERATIONS
) -> None:
    """As `lsuv_`, with arguments that are checked already; a failure leaves the model as it is then."""
    captured: dict[nn.Module, torch.Tensor] = {}

    def capture(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        captured[layer] = output

    handles = [layer.register_forward_hook(capture) for layer in model.modules() if isinstance(layer, WEIGHT_LAYERS)]
    try:
        _first_pass(model, batch)
        for layer in list(captured):
            for _ in range(max_iterations):
                variance = captured[layer].double().var().item()
                if abs(variance - 1) <= tolerance or not 0 < variance < math.inf:
                    break
                assert isinstance(layer.weight, torch.Tensor)
                layer.weight.div_(math.sqrt(variance))
                model(batch)
    finally:
        for handle in handles:
            handle.remove()


def _first_pass(model: nn.Module, batch: torch.Tensor) -> None:
    """Run the model, and say it in one line if the batch does not fit it."""
    try:
        model(batch)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(
            f"lsuv: the model does not take a batch of shape {tuple(batch.shape)} and {batch.dtype}: {reason}"
        ) from error
