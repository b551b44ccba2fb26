"""Laws of batch normalization: exact ones in float64, and what small batches do to gradients."""

import math

import pytest
import torch
from torch import nn

from initbench_core.networks import theory
from initbench_core.networks.activations import Activation
from initbench_core.networks.batch_norm import HandWrittenBatchNorm
from initbench_core.networks.initializers import initialize_layers_
from initbench_core.networks.models import mlp
from initbench_core.training.probing import layer_signals
from tests import tolerances


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def normalized_network(eps: float = 1e-300) -> nn.Sequential:
    model = mlp(20, 24, 4, 5, norm="before").double()
    initialize_layers_(model, "kaiming_normal")
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d):
            layer.eps = eps
    return model


def loss_and_gradients(model: nn.Sequential) -> tuple[torch.Tensor, list[nn.Linear]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 20, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 5, (64,), generator=generator)
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    # All weights that a normalization follows: not the last layer's.
    return loss.detach(), [m for m in model if isinstance(m, nn.Linear)][:-1]


@pytest.mark.parametrize("c", [1e-3, 7.0, 1e4])
def test_scale_invariance(c: float) -> None:
    """L(cW) = L(W), grad(cW) = grad(W) / c: why BatchNorm tames the scale of weights, and large learning rates."""
    model = normalized_network()
    loss, layers = loss_and_gradients(model)
    gradients = [layer.weight.grad.clone() for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.weight *= c
    scaled_loss, _ = loss_and_gradients(model)
    assert scaled_loss.item() == pytest.approx(loss.item(), rel=tolerances.SCALE_INVARIANCE)
    for layer, gradient in zip(layers, gradients, strict=True):
        error = (c * layer.weight.grad - gradient).abs().max() / gradient.abs().max()
        assert error < tolerances.SCALE_INVARIANCE


def test_gradients_are_orthogonal_to_their_weights() -> None:
    """Every unit's by itself; gradient descent can only lengthen such weights."""
    _, layers = loss_and_gradients(normalized_network())
    for layer in layers:
        weight, gradient = layer.weight.detach(), layer.weight.grad
        cosines = (weight * gradient).sum(dim=1) / (weight.norm(dim=1) * gradient.norm(dim=1))
        assert gradient.abs().max() > 1e-4
        assert cosines.abs().max() < tolerances.SCALE_INVARIANCE


def test_the_constant_eps_breaks_scale_invariance() -> None:
    """The law is for eps = 0, or next to nothing as above (torch refuses 0): weights as small as eps do not cancel."""
    model = normalized_network(eps=1e-5)
    loss, layers = loss_and_gradients(model)
    with torch.no_grad():
        for layer in layers:
            layer.weight *= 1e-3
    assert abs(loss_and_gradients(model)[0] - loss) > 1e-3


def test_a_bias_before_batch_norm_has_no_gradient() -> None:
    """It is subtracted again with the mean."""
    _, layers = loss_and_gradients(normalized_network(eps=1e-5))
    for layer in layers:
        assert layer.bias.grad.abs().max() < tolerances.SCALE_INVARIANCE * layer.weight.grad.abs().max()


@pytest.mark.parametrize("make", [nn.BatchNorm1d, HandWrittenBatchNorm])
def test_output_variance_and_running_variance(make: type[nn.Module]) -> None:
    """Outputs have mean 0 and variance v / (v + eps), v the biased variance; the running one is B / (B - 1) of it."""
    batch, eps = 12, 0.3
    norm = make(5, eps=eps, momentum=1.0).double()
    x = 3 + 0.5 * torch.randn(batch, 5, dtype=torch.float64)
    y = norm(x).detach()
    v = x.var(dim=0, unbiased=False)
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(y.var(dim=0, unbiased=False), v / (v + eps))
    torch.testing.assert_close(norm.running_var, v * batch / (batch - 1))


def gradient_growth(activation: str, batch: int, networks: int, width: int = 512, depth: int = 16) -> float:
    """Geometric growth per layer, toward the input, of the gradient's second moment over the inner layers."""
    logs = []
    for _ in range(networks):
        model = mlp(width, width, depth, width, activation=activation, norm="before")
        initialize_layers_(model, "lecun_normal")
        layers = [m for m in model if isinstance(m, Activation)]
        _, gradients = layer_signals(model, layers, torch.randn(batch, width), torch.randn(batch, width))
        logs.append((gradients[3].square().mean() / gradients[-2].square().mean()).log().item() / (depth - 5))
    return math.exp(sum(logs) / networks)


@pytest.mark.parametrize(("batch", "networks"), [(8, 8), (16, 6)])
def test_small_batches_make_linear_networks_explode(batch: int, networks: int) -> None:
    """rho is 1 for linear networks in large batches, (B - 2) / (B - 3) in small ones."""
    expected = theory.linear_batch_norm_gradient_growth(batch)
    assert gradient_growth("linear", batch, networks) == pytest.approx(expected, rel=tolerances.SMALL_BATCH)


def test_small_batches_are_worse_for_relu_too() -> None:
    assert gradient_growth("relu", 8, 4) > 1.1 * theory.batch_norm_gradient_growth("relu")
