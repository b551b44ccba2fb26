"""Networks with the kernels' operators: the same parameters under another forward."""

import copy

import pytest
import torch
from torch import nn

from initbench_core.networks.fused import with_kernels
from initbench_core.networks.models import cnn, mlp, residual_mlp
from initbench_kernels import BatchNormReLU1d, BatchNormReLU2d


def fused_layers(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, (BatchNormReLU1d, BatchNormReLU2d))]


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (mlp(8, 16, 3, 4, norm="before"), 3),
        (residual_mlp(8, 16, 2, 4, norm="before"), 5),
        (cnn(norm="before"), 2),
        (mlp(8, 16, 3, 4, norm="after"), 0),
        (mlp(8, 16, 3, 4, norm="before", activation="tanh"), 0),
        (nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU()), 1),
    ],
)
def test_each_batch_norm_takes_its_relu(model: nn.Module, count: int) -> None:
    before = repr(model)
    fused = with_kernels(model, "triton")
    layers = fused_layers(fused)
    assert len(layers) == count
    assert {layer.backend for layer in layers} <= {"triton"}
    assert repr(model) == before
    assert list(fused.state_dict()) == list(model.state_dict())
    for mine, theirs in zip(fused.state_dict().values(), model.state_dict().values(), strict=True):
        assert mine.data_ptr() == theirs.data_ptr()


def test_the_fused_forward_is_the_models() -> None:
    """Run on the eager backend, which needs no GPU: same outputs, gradients and statistics."""
    model = mlp(8, 16, 3, 4, norm="before")
    other = copy.deepcopy(model)
    fused = with_kernels(other, "triton")
    for layer in fused_layers(fused):
        layer.backend = "eager"
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    for network in (model, fused):
        network(x).square().sum().backward()
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for mine, theirs in zip(other.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_eager_is_the_model_itself() -> None:
    model = mlp(8, 16, 3, 4, norm="before")
    assert with_kernels(model, "eager") is model
