"""Looking into a network: what every layer puts out, and the gradient that comes back to it, beside theory."""

import copy
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from initbench_core.measurement.memory import peak_bytes
from initbench_core.networks import mean_field
from initbench_core.networks.activations import ASYMPTOTES, Activation
from initbench_core.networks.fans import WEIGHT_LAYERS
from initbench_core.records.schema import Measurement, scalar
from initbench_core.training.data import Data, Split
from initbench_core.training.evaluation import loss_of
from initbench_core.training.metrics import METRICS
from initbench_core.training.recipe import Recipe
from initbench_core.training.trial_log import MIB

# Of deeper networks so many layers are recorded, and beyond so many a step's memory is not counted: that takes as long
# as the square of the depth.
LAYERS_KEPT, LAYERS_COUNTED = 50, 250


def layer_signals(
    model: nn.Module, layers: Sequence[nn.Module], x: torch.Tensor, gradient: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Run `model` forward and backward once and return each layer's output and the gradient at it.

    Args:
        model: in the mode (training or evaluation) to be looked at; its parameters' gradients are left alone.
        layers: modules of `model`, each called once in a forward pass.
        x: input batch [N, ...].
        gradient: what to send back from the model's output, of its shape.

    Returns:
        Outputs and their gradients, in the order of `layers`, detached.
    """
    output, outputs = _forward(model, layers, x)
    gradients = torch.autograd.grad(output, outputs, gradient)
    return [o.detach() for o in outputs], [g.detach() for g in gradients]


def _forward(model: nn.Module, layers: Sequence[nn.Module], x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Run `model` and return its output and each layer's."""
    captured: dict[nn.Module, torch.Tensor] = {}

    def capture(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        captured[layer] = output

    handles = [layer.register_forward_hook(capture) for layer in layers]
    try:
        output = model(x)
    finally:
        for handle in handles:
            handle.remove()
    return output, [captured[layer] for layer in layers]


def probe_at_init(model: nn.Module, batch: Split, *, norm: str | None) -> Iterator[Measurement]:
    """Look into a network on one batch, in float64 and training mode; the network itself is left as it is.

    Args:
        model: weight layers with an `Activation` behind each but the last.
        batch: inputs and targets, on any device; their loss is what gradients are of.
        norm: where a plain network has its BatchNorm ("none", "before" or "after" the activation), for theory; None
            where there is no theory, as for residual networks and padded convolutions.

    Yields:
        By "layer" (weight layers but the last, from 1): "second_moment" and "variance" of the pre-activations,
        "gradient_second_moment" and "gradient_variance" of the loss's gradient there; by "layer" of the activations
        "dead_fraction", "always_on_fraction", "mean_cosine" and for bounded ones "saturated_fraction". Single numbers
        "forward_factor" and "backward_factor", the geometric factors per layer of both second moments in the signal's
        direction, and "first_last_gradient_ratio" of the weights' gradients. With theory "second_moment_theory" and
        "gradient_second_moment_theory" by layer and "forward_factor_ratio" and "backward_factor_ratio", measured over
        predicted.
    """
    model, weights, activations, outputs = _seen(model, batch)
    hidden = len(weights) - 1
    signals = [output.detach() for output in outputs[:hidden]]
    gradients = [_gradient(output) for output in outputs[:hidden]]
    active = [output.detach().flatten(1) for output in outputs[hidden:]]
    yield from _by_layer("", ("second_moment", "variance"), signals)
    yield from _by_layer("gradient_", ("second_moment", "variance"), gradients)
    yield from _by_layer("", ("dead_fraction", "always_on_fraction", "mean_cosine"), active)
    if activations and activations[0].name in ASYMPTOTES:
        values = [float(METRICS["saturated_fraction"].function(a, *ASYMPTOTES[activations[0].name])) for a in active]
        yield Measurement("saturated_fraction", "fraction", values, {"layer": list(range(1, len(values) + 1))})
    yield scalar("first_last_gradient_ratio", "1", float(METRICS["first_last_gradient_ratio"].function(model)))
    moments, gradient_moments = (
        [float(METRICS["second_moment"].function(t)) for t in tensors] for tensors in (signals, gradients)
    )
    yield scalar("forward_factor", "1", geometric_factor(moments))
    yield scalar("backward_factor", "1", geometric_factor(gradient_moments[::-1]))
    if norm is None:
        return
    scales = [mean_field.weight_scale(layer) for layer in weights[1:-1]]
    name = activations[0].name
    forward = mean_field.second_moments(moments[0], scales, name, norm)
    backward = mean_field.gradient_second_moments(gradient_moments[-1], forward, scales, name, norm)
    axes = {"layer": list(range(1, hidden + 1))}
    yield Measurement("second_moment_theory", "1", forward, axes)
    yield Measurement("gradient_second_moment_theory", "1", backward, axes)
    yield scalar("forward_factor_ratio", "1", geometric_factor(moments) / geometric_factor(forward))
    yield scalar(
        "backward_factor_ratio", "1", geometric_factor(gradient_moments[::-1]) / geometric_factor(backward[::-1])
    )


def look(
    models: Sequence[nn.Module], data: Data, recipe: Recipe, *, norm: str | None = None
) -> list[list[Measurement]]:
    """Look at networks that differ in their weights alone, before their training.

    Args:
        models: as `probe_at_init` wants them; left as they are.
        data: its first training samples, a batch of them, are what is looked at.
        recipe: of the training.
        norm: as in `probe_at_init`.

    Returns:
        For each network what `probe_at_init` finds, by layer at `LAYERS_KEPT` of them at most; and "step_memory",
        counted once, where the networks have at most `LAYERS_COUNTED` weight layers.
    """
    batch = Split(*(part[: recipe.batch_size] for part in data.train))
    layers = sum(isinstance(layer, WEIGHT_LAYERS) for layer in models[0].modules())
    memory = [step_memory(models[0], batch)] if layers <= LAYERS_COUNTED else []
    return [[*map(_thinned, probe_at_init(model, batch, norm=norm)), *memory] for model in models]


def _thinned(found: Measurement) -> Measurement:
    """Keep some of very many layers, evenly spaced, the first and the last among them."""
    if len(found.values) <= LAYERS_KEPT:
        return found
    kept = np.linspace(0, len(found.values) - 1, LAYERS_KEPT).round().astype(int)
    axes = {axis: [at[i] for i in kept] for axis, at in found.axes.items()}
    return Measurement(found.metric, found.unit, [found.values[i] for i in kept], axes)


def step_memory(model: nn.Module, batch: Split) -> Measurement:
    """Count what one training step (forward, loss, backward) holds at its peak; the network itself is left as it is.

    "step_memory" is in MiB beside weights, data and the optimizer's state: activations kept for the backward pass, and
    gradients. On the CPU it is counted from the operators, so that it is the same every time; the "peak_memory" of a
    training on CUDA is the allocator's, and has all of it.

    Args:
        model: in any mode; looked at in training mode and its own type.
        batch: inputs and targets, on any device.
    """
    model = copy.deepcopy(model).train()
    parameters = list(model.parameters())
    x, y = (part.to(parameters[0].device) for part in batch)
    peak = peak_bytes(lambda: torch.autograd.grad(loss_of(model(x), y), parameters), x.device)
    return scalar("step_memory", "MiB", peak / MIB)


def _seen(
    model: nn.Module, batch: Split
) -> tuple[nn.Module, Sequence[nn.Module], list[Activation], list[torch.Tensor]]:
    """Pass a batch through a copy in float64 and training mode, forward and backward.

    Returns:
        The copy, its weight layers, its activations, and the outputs of the weight layers but the last and then of the
        activations; parameters and outputs have their gradients.
    """
    model = copy.deepcopy(model).double().train()
    model.zero_grad()
    x, y = (part.to(next(model.parameters()).device) for part in batch)
    weights = [layer for layer in model.modules() if isinstance(layer, WEIGHT_LAYERS)]
    activations = [layer for layer in model.modules() if isinstance(layer, Activation)]
    prediction, outputs = _forward(model, [*weights[:-1], *activations], x.double())
    for output in outputs:
        output.retain_grad()
    loss_of(prediction, y.double() if y.is_floating_point() else y).backward()
    return model, weights, activations, outputs


def _gradient(output: torch.Tensor) -> torch.Tensor:
    assert output.grad is not None
    return output.grad


def _by_layer(prefix: str, names: Sequence[str], tensors: Sequence[torch.Tensor]) -> Iterator[Measurement]:
    axes = {"layer": list(range(1, len(tensors) + 1))}
    for name in names:
        values = [float(METRICS[name].function(tensor)) for tensor in tensors]
        yield Measurement(f"{prefix}{name}", METRICS[name].unit, values, axes)


def geometric_factor(values: Sequence[float]) -> float:
    """Return the factor from one value to the next, by a line fitted to the logarithms; nan for fewer than two.

    Values that are 0 or not finite (signals that left float64) are left out.
    """
    signal = np.asarray(values, dtype=np.float64)
    layers = np.flatnonzero(np.isfinite(signal) & (signal > 0))
    if len(layers) < 2:
        return math.nan
    return float(np.exp(np.polyfit(layers, np.log(signal[layers]), 1)[0]))
