"""BatchNormReLU1d/2d/3d as nn.Modules."""

import copy
import pickle

import pytest
import torch
from torch import fx, nn

from initbench_kernels import BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d


def test_is_a_batch_norm() -> None:
    """Code that looks for batch norms (weight decay groups, freezing) finds them."""
    assert issubclass(BatchNormReLU1d, nn.BatchNorm1d)
    assert issubclass(BatchNormReLU2d, nn.BatchNorm2d)
    assert issubclass(BatchNormReLU3d, nn.BatchNorm3d)


def test_state_dict_is_interchangeable() -> None:
    """Same keys, shapes and dtypes, in the same order, both ways."""
    plain, fused = nn.BatchNorm2d(3), BatchNormReLU2d(3)
    plain(torch.randn(4, 3, 2, 2))
    assert list(plain.state_dict()) == list(fused.state_dict())
    fused.load_state_dict(plain.state_dict())
    plain.load_state_dict(fused.state_dict())
    assert fused.num_batches_tracked == 1


def test_frozen_statistics_with_gradients() -> None:
    """eval() inside a training loop: gradients flow, statistics stay."""
    fused, plain = BatchNormReLU1d(3).eval(), nn.BatchNorm1d(3).eval()
    x = torch.randn(5, 3, requires_grad=True)
    actual = torch.autograd.grad(fused(x).sum(), [x, fused.weight])
    wanted = torch.autograd.grad(plain(x).relu().sum(), [x, plain.weight])
    for a, b in zip(actual, wanted, strict=True):
        torch.testing.assert_close(a, b)
    assert fused.num_batches_tracked == 0


def test_training_without_tracking_after_construction() -> None:
    """With track_running_stats set to False afterwards, buffers are left alone in training and used in evaluation."""
    fused, plain = BatchNormReLU1d(3), nn.BatchNorm1d(3)
    for module in (fused, plain):
        module.track_running_stats = False
    x = torch.randn(5, 3)
    torch.testing.assert_close(fused(x), plain(x).relu())
    assert (fused.running_mean == 0).all()
    assert fused.num_batches_tracked == 0
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x).relu())


def test_copy_and_pickle() -> None:
    """Modules survive deepcopy and pickle, the choice of a backend included."""
    module = BatchNormReLU1d(3)
    module.backend = "eager"
    for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert clone.backend == "eager"
        assert list(clone.state_dict()) == list(module.state_dict())


def test_in_place_change_of_the_output_is_an_error() -> None:
    """As with nn.ReLU: the output is needed for the gradient, and autograd notices its loss."""
    x = torch.randn(5, 3, requires_grad=True)
    y = BatchNormReLU1d(3)(x)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
@pytest.mark.parametrize("shape", [(8, 3), (2**15, 3)], ids=["short", "narrow"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_statistics_that_want_gradients(buffer: str, shape: tuple[int, int], training: bool) -> None:
    """PyTorch's error, rather than a gradient that is missing; without autograd there is nothing to miss."""
    x = torch.randn(shape)
    for module in (nn.BatchNorm1d(3), BatchNormReLU1d(3)):
        getattr(module.train(training), buffer).requires_grad_()
        with pytest.raises(RuntimeError, match=f"not differentiable with respect to argument '{buffer}'"):
            module(x)
        with torch.no_grad():
            assert module(x).shape == shape


class _Block(nn.Module):
    """Fused layers with and without a residual, one of them in a container."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(5, 3), BatchNormReLU1d(3))
        self.second = BatchNormReLU1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.second(y, y)


@pytest.mark.parametrize("shape", [(7, 5), (0, 5)], ids=["samples", "empty"])
def test_torch_fx_takes_it_for_one_step(shape: tuple[int, int]) -> None:
    """As PyTorch's own batch norm: the layer stays one, and decides by each input anew."""
    block = _Block().eval()
    traced = fx.symbolic_trace(block)
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert called == ["first.0", "first.1", "second"]
    x = torch.randn(shape)
    torch.testing.assert_close(traced(x), block(x), rtol=0, atol=0)
    assert traced.second is block.second
    block.train()
    traced.train()
    if len(x):
        wanted = copy.deepcopy(block)
        torch.testing.assert_close(traced(x), wanted(x), rtol=0, atol=0)
        assert traced.second.num_batches_tracked == wanted.second.num_batches_tracked == 1
