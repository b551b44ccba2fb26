"""Bytes moved and launches made by the fused operator, against its budget."""

import pytest
import torch
from batch_norm_oracle import SHAPES, Case

from initbench_core.measurement.traffic import Traffic, count_traffic
from initbench_kernels import batch_norm_relu

# Big enough for several splits, so that a second read of the whole tensor could not hide.
NAMES = ["rows_3_channels_short_last_row", "rows_70_channels_ragged_block", "planes_several_tiles", "channels_last_1d"]


def forward(case: Case, **kwargs: object) -> torch.Tensor:
    return batch_norm_relu(
        case.x, case.running_mean, case.running_var, case.weight, case.bias, case.training, residual=case.res,
        backend="triton", **kwargs,
    )  # fmt: skip


def backward(case: Case, *leaves: torch.Tensor) -> tuple[Traffic, tuple[torch.Tensor, ...]]:
    for leaf in leaves:
        leaf.requires_grad_()
    y = forward(case)
    with count_traffic() as traffic:
        grads = torch.autograd.grad(y, leaves, case.dy)
    return traffic, (y, *grads)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_forward(name: str, training: bool, residual: bool) -> None:
    """Evaluation 1R + 1W in one launch, training 2R + 1W in two; a residual adds 1R."""
    case = Case(*SHAPES[name], training=training, residual=residual)
    with count_traffic() as traffic:
        y = forward(case)
    assert traffic.passes(case.x) == (2 if training else 1, 0)
    assert traffic.passes(y) == (0, 1)
    if residual:
        assert traffic.passes(case.res) == (1, 0)
    assert len(traffic.launches) == (2 if training else 1)


@pytest.mark.parametrize("name", NAMES)
def test_backward_training(name: str) -> None:
    """x and dy twice, dx once: 4R + 1W in two launches."""
    case = Case(*SHAPES[name])
    traffic, (y, dx, *_) = backward(case, case.x, case.weight, case.bias)
    assert traffic.passes(case.x) == (2, 0)
    assert traffic.passes(case.dy) == (2, 0)
    assert traffic.passes(dx) == (0, 1)
    assert traffic.passes(y) == (0, 0)
    assert len(traffic.launches) == 2


@pytest.mark.parametrize("name", NAMES)
def test_backward_training_residual(name: str) -> None:
    """The sign comes from y once; the gradient of the residual is written once and serves the second launch for dy."""
    case = Case(*SHAPES[name], residual=True)
    traffic, (y, dx, dresidual) = backward(case, case.x, case.res)
    assert traffic.passes(case.x) == (2, 0)
    assert traffic.passes(case.dy) == (1, 0)
    assert traffic.passes(y) == (1, 0)
    assert traffic.passes(dresidual) == (1, 1)
    assert traffic.passes(dx) == (0, 1)
    assert traffic.passes(case.res) == (0, 0)
    assert len(traffic.launches) == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("affine", [True, False], ids=["with parameters", "input only"])
def test_backward_evaluation(name: str, affine: bool) -> None:
    """The statistics are constants, so dx is written on the first pass: 2R + 1W."""
    case = Case(*SHAPES[name], training=False)
    leaves = [case.x, case.weight, case.bias] if affine else [case.x]
    traffic, (_, dx, *_) = backward(case, *leaves)
    assert traffic.passes(case.x) == (1, 0)
    assert traffic.passes(case.dy) == (1, 0)
    assert traffic.passes(dx) == (0, 1)
    assert len(traffic.launches) == (2 if affine else 1)


def test_statistics_are_little() -> None:
    """Partial sums, parameters and running statistics add at most 5% to 2R + 1W, once a tensor fills the device."""
    case = Case((16, 4, 64, 64))
    with count_traffic() as traffic:
        y = forward(case)
    full = 3 * y.numel() * y.itemsize
    assert full < traffic.total_bytes() <= 1.05 * full


def test_saved_for_backward() -> None:
    """x and O(C) numbers; with a residual y as well, which is the output itself."""
    for residual in (False, True):
        case = Case((40, 18), residual=residual)
        case.x.requires_grad_()
        saved: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            y = forward(case)
        large = {t.data_ptr() for t in saved if t.numel() > 2 * 18}
        assert large == ({case.x.data_ptr(), y.data_ptr()} if residual else {case.x.data_ptr()})
