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


def saved(y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What autograd keeps for the backward pass of the operator that made `y`; the signs, if any, come last."""
    return y.grad_fn.saved_tensors


def backward(case: Case, *leaves: torch.Tensor) -> tuple[Traffic, tuple[torch.Tensor, ...]]:
    for leaf in leaves:
        leaf.requires_grad_()
    y = forward(case)
    with count_traffic() as traffic:
        grads = torch.autograd.grad(y, leaves, case.dy, retain_graph=True)
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
    """4R + 2W and the signs: the residual's gradient is written once and serves the second launch for dy."""
    case = Case(*SHAPES[name], residual=True)
    traffic, (y, dx, dresidual) = backward(case, case.x, case.res)
    assert traffic.passes(case.x) == (2, 0)
    assert traffic.passes(case.dy) == (1, 0)
    assert traffic.passes(dresidual) == (1, 1)
    assert traffic.passes(dx) == (0, 1)
    assert traffic.passes(y) == (0, 0)
    assert traffic.passes(case.res) == (0, 0)
    assert traffic.passes(saved(y)[-1]) == (1, 0)
    assert len(traffic.launches) == 2


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_signs_are_written_once(name: str, training: bool) -> None:
    """What a gradient through a residual adds to the forward pass: an eighth of a byte per element, and remainders."""
    case = Case(*SHAPES[name], training=training, residual=True)
    case.res.requires_grad_()
    with count_traffic() as traffic:
        y = forward(case)
    signs = saved(y)[-1]
    assert signs.dtype == torch.uint8
    assert traffic.passes(case.x) == (2 if training else 1, 0)
    assert traffic.passes(case.res) == (1, 0)
    assert traffic.passes(y) == (0, 1)
    assert traffic.passes(signs) == (0, 1)
    # The last byte of each row of channels, or of each plane, may hold fewer than 8 elements.
    last_bytes = {
        "rows_3_channels_short_last_row": 1,
        "rows_70_channels_ragged_block": 171,
        "planes_several_tiles": 6,
        "channels_last_1d": 120,
    }
    assert y.numel() / 8 < signs.numel() < y.numel() / 8 + last_bytes[name]
    assert len(traffic.launches) == (2 if training else 1)


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


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_the_rest_is_little(residual: bool) -> None:
    """Partial sums, parameters, running statistics and signs add at most 5%, once a tensor fills the device.

    That is to 2R + 1W forward and 4R + 1W backward; to 3R + 1W and 4R + 2W with a residual.
    """
    case = Case((16, 4, 64, 64), residual=residual)
    leaves = [t.requires_grad_() for t in (case.x, case.res, case.weight, case.bias) if t is not None]
    with count_traffic() as traffic:
        y = forward(case)
    full = (4 if residual else 3) * y.numel() * y.itemsize
    assert full < traffic.total_bytes() <= 1.05 * full
    with count_traffic() as traffic:
        torch.autograd.grad(y, leaves, case.dy)
    full = (6 if residual else 5) * y.numel() * y.itemsize
    assert full < traffic.total_bytes() <= 1.05 * full


def test_saved_for_backward() -> None:
    """x and O(C) numbers; with a residual one bit per element as well, but not the output."""
    for residual in (False, True):
        case = Case((40, 18), residual=residual)
        case.x.requires_grad_()
        y = forward(case)
        tensors = [t for t in saved(y) if t is not case.x]
        assert sum(t.numel() * t.itemsize for t in tensors) == 4 * 18 * 4 + (40 * 18 // 8 if residual else 0)
        assert y.data_ptr() not in {t.data_ptr() for t in tensors}
