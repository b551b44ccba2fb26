"""Models: shapes, places of the normalization, and BatchNorm by hand against torch's."""

import copy

import pytest
import torch
from torch import nn

from initbench_core.networks.activations import Activation
from initbench_core.networks.batch_norm import HandWrittenBatchNorm
from initbench_core.networks.models import NORM_PLACES, cnn, mlp, plain_cnn, residual_mlp
from tests import tolerances


@pytest.mark.parametrize("norm", NORM_PLACES)
def test_mlp_places_the_normalization(norm: str) -> None:
    model = mlp(7, 16, 3, 2, norm=norm)
    assert model(torch.randn(5, 7)).shape == (5, 2)
    kinds = [type(m) for m in model]
    block = {
        "none": [nn.Linear, Activation],
        "before": [nn.Linear, nn.BatchNorm1d, Activation],
        "after": [nn.Linear, Activation, nn.BatchNorm1d],
    }[norm]
    assert kinds == block * 3 + [nn.Linear]


def test_mlp_of_depth_zero_is_linear() -> None:
    assert [type(m) for m in mlp(3, 16, 0, 2)] == [nn.Linear]


@pytest.mark.parametrize("norm", NORM_PLACES)
@pytest.mark.parametrize("implementation", ["native", "handwritten"])
def test_cnn_shapes(norm: str, implementation: str) -> None:
    model = cnn(norm=norm, implementation=implementation)
    assert model(torch.randn(4, 1, 28, 28)).shape == (4, 10)
    assert sum(isinstance(m, nn.BatchNorm2d | HandWrittenBatchNorm) for m in model) == (0 if norm == "none" else 2)


@pytest.mark.parametrize("norm", NORM_PLACES)
def test_plain_cnn_shapes(norm: str) -> None:
    model = plain_cnn(5, 4, 10, norm=norm)
    assert model(torch.randn(4, 1, 28, 28)).shape == (4, 10)
    assert model[:-3](torch.randn(4, 1, 28, 28)).shape == (4, 5, 7, 7)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model) == (0 if norm == "none" else 4)


@pytest.mark.parametrize("norm", NORM_PLACES)
def test_residual_mlp_adds_its_branches(norm: str) -> None:
    model = residual_mlp(6, 12, 4, 3, norm=norm)
    assert model(torch.randn(8, 6)).shape == (8, 3)
    block = model[1].eval()
    x = torch.randn(8, 12)
    torch.testing.assert_close(block(x) - x, block.branch(x))


def test_unknown_place_is_explained() -> None:
    with pytest.raises(ValueError, match="choose from none, before, after"):
        mlp(3, 4, 1, 2, norm="between")


@pytest.mark.parametrize("shape", [(32, 5), (8, 5, 7), (4, 5, 6, 6)], ids=["2d", "3d", "4d"])
def test_handwritten_equals_native(shape: tuple[int, ...]) -> None:
    """Output, gradients and running statistics, in training and then in evaluation."""
    torch.manual_seed(0)
    native = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](5)
    ours = HandWrittenBatchNorm(5)
    with torch.no_grad():
        for parameter in ("weight", "bias"):
            getattr(native, parameter).normal_()
            getattr(ours, parameter).copy_(getattr(native, parameter))
    for _ in range(3):
        x = 2 * torch.randn(shape) + 1
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [module(i) for module, i in zip((native, ours), inputs, strict=True)]
        torch.testing.assert_close(outputs[1], outputs[0], **tolerances.HANDWRITTEN)
        dy = torch.randn(shape)
        gradients = [torch.autograd.grad(o, i, dy)[0] for o, i in zip(outputs, inputs, strict=True)]
        torch.testing.assert_close(gradients[1], gradients[0], **tolerances.HANDWRITTEN)
    for buffer in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, buffer), getattr(native, buffer), **tolerances.HANDWRITTEN)
    torch.testing.assert_close(ours.eval()(x), native.eval()(x), **tolerances.HANDWRITTEN)


def test_handwritten_keeps_its_statistics_in_the_state_and_out_of_the_graph() -> None:
    """The lecture's did neither: plain attributes, and a graph that grew with every step."""
    norm = HandWrittenBatchNorm(3)
    for _ in range(5):
        norm(torch.randn(16, 3, requires_grad=True))
    assert set(norm.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    assert norm.running_mean.grad_fn is None
    assert norm.running_var.grad_fn is None
    assert copy.deepcopy(norm).double().running_var.dtype == torch.float64


def test_handwritten_running_variance_is_unbiased() -> None:
    norm = HandWrittenBatchNorm(1, momentum=1.0)
    x = torch.tensor([[0.0], [2.0]])
    norm(x)
    assert norm.running_var.item() == pytest.approx(2.0)


def test_handwritten_refuses_one_value_per_channel() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        HandWrittenBatchNorm(3)(torch.randn(1, 3))
