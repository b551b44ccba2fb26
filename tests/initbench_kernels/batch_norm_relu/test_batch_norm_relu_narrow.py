"""The passes over narrow matrices against float64, the pair's rules, and the memory they may hold."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import EAGER, EXACT, FUSED_RELATIVE, LARGE_MEAN_ABSOLUTE, STATISTICS_RELATIVE
from torch import Tensor, nn
from torch.autograd import forward_ad

from initbench_core.measurement.memory import peak_bytes, saved_bytes
from initbench_kernels import BatchNormReLU1d, batch_norm_relu
from initbench_kernels.batch_norm_relu import narrow, reference
from initbench_kernels.batch_norm_relu.eager import NARROW_COLUMN_BYTES

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# The fewest that are served in half precision; half as many are in float32.
ROWS = NARROW_COLUMN_BYTES // 2


def normal(rows: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed))


def is_served(y: Tensor) -> bool:
    """Whether `narrow` has computed y."""
    return y.grad_fn is not None and y.grad_fn.name() == "NarrowBatchNormReLUBackward"


def assert_near(actual: Tensor, wanted: Tensor, relative: float) -> None:
    """The largest error is at most `relative` of the largest magnitude."""
    assert (actual.double() - wanted.double()).abs().max() <= relative * wanted.abs().max()


def assert_matches_float64(x: Tensor, dy: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    """Both passes against the reference; where rounding decides over the ReLU's mask, dx is not compared."""
    stats = reference.statistics(x.double())
    mean, rstd = stats.mean, (stats.var + 1e-5).rsqrt()
    affine = [None if p is None else p.double() for p in (weight, bias)]
    z = reference.pre_activation(x.double(), mean, rstd, *affine)
    dy = torch.where(z.abs() < 1e-4, 0, dy)
    wanted = reference.backward(dy.double(), x.double(), mean, rstd, *affine, training=True)

    y, found = narrow.forward(x, weight, bias, None, None, None, 0.1, 1e-5)
    dx, dweight, dbias = narrow.backward(dy, x, y, weight, found, need_dx=True)
    assert_near(found[0], mean, STATISTICS_RELATIVE)
    assert_near(found[1], rstd, STATISTICS_RELATIVE)
    assert y.dtype == dx.dtype == x.dtype
    assert_near(y, z.relu(), FUSED_RELATIVE[x.dtype])
    # dx rounds twice in half precision, for it holds the masked dy first; that rounding is exact.
    assert_near(dx, wanted.dx, FUSED_RELATIVE[x.dtype])
    scale = dy.double().abs().sum(0).max()
    assert (dweight - wanted.dweight).abs().max() <= STATISTICS_RELATIVE * scale
    assert (dbias - wanted.dbias).abs().max() <= STATISTICS_RELATIVE * scale


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(narrow.FOLD, 20 * narrow.FOLD),
    channels=st.integers(1, 23),
    dtype=st.sampled_from(DTYPES),
    affine=st.booleans(),
    block=st.integers(23 * narrow.FOLD, 60 * narrow.FOLD),
    seed=st.integers(0, 1000),
)
def test_any_cut_matches_float64(
    rows: int, channels: int, dtype: torch.dtype, affine: bool, block: int, seed: int
) -> None:
    """However rows are cut into blocks and whatever is left over."""
    x, dy = (3 + 2 * normal(rows, channels, seed)).to(dtype), normal(rows, channels, seed + 1).to(dtype)
    weight, bias = normal(2, channels, seed + 2) if affine else (None, None)
    with mock.patch.object(narrow, "BLOCK", block):
        assert_matches_float64(x, dy, weight, bias)


@pytest.mark.parametrize("rows", [ROWS, 880_802 // 16, 2**17 + 1])
@pytest.mark.parametrize("channels", [1, 3, 7, 18])
def test_matches_float64(rows: int, channels: int) -> None:
    """At sizes as they come, of several blocks."""
    assert_matches_float64(
        normal(rows, channels) + 3, normal(rows, channels, 1), torch.linspace(-1, 1, channels), torch.zeros(channels)
    )


def test_long_columns_are_summed_exactly() -> None:
    """At 880,802 x 3 PyTorch's float32 sums along the rows give gradients that are off by 3e-4; ours 6e-7."""
    x, dy = normal(880_802, 3), normal(880_802, 3, 1)
    found = {}
    for dtype, function in ((torch.float64, F.batch_norm), (torch.float32, batch_norm_relu)):
        leaf = x.to(dtype).requires_grad_()
        y = function(leaf, None, None, training=True)
        found[dtype] = torch.autograd.grad(y.relu(), leaf, dy.to(dtype))[0].double()
    assert (found[torch.float32] - found[torch.float64]).abs().max() < 3e-6


@pytest.mark.parametrize("spread", ["mixed", "sorted"])
def test_large_mean(spread: str) -> None:
    """mean / std = 1e4, and rows whose mean moves from block to block."""
    x = 1e4 + normal(2**17, 3)
    x = x.sort(0).values if spread == "sorted" else x
    stats = reference.statistics(x.double())
    mean, rstd = stats.mean, (stats.var + 1e-5).rsqrt()
    wanted = reference.forward(x.double(), mean, rstd)
    y, found = narrow.forward(x, None, None, None, None, None, 0.1, 1e-5)
    assert_near(found[0], mean, STATISTICS_RELATIVE)
    assert_near(found[1], rstd, STATISTICS_RELATIVE)
    assert (y.double() - wanted).abs().max() < LARGE_MEAN_ABSOLUTE
    # A gradient that depends on x_hat; where rounding decides over the ReLU's mask it is 0.
    dy = torch.where(wanted > 2 * LARGE_MEAN_ABSOLUTE, wanted, 0).float()
    dx, dweight, dbias = narrow.backward(dy, x, y, None, found, need_dx=True)
    grads = reference.backward(dy.double(), x.double(), mean, rstd, training=True)
    assert (dx - grads.dx).abs().max() < LARGE_MEAN_ABSOLUTE
    assert_near(dweight, grads.dweight, LARGE_MEAN_ABSOLUTE)
    assert_near(dbias, grads.dbias, STATISTICS_RELATIVE)


@pytest.mark.parametrize("channels", [1, 3, 7, 18])
def test_no_further_from_float64_than_the_pair(channels: int) -> None:
    """Results, gradients and buffers of the module."""
    results = []
    for dtype, plain in ((torch.float64, True), (torch.float32, True), (torch.float32, False)):
        module = (nn.BatchNorm1d if plain else BatchNormReLU1d)(channels, dtype=dtype)
        x = (3 + normal(ROWS, channels)).to(dtype).requires_grad_()
        y = module(x).relu() if plain else module(x)
        assert is_served(y) != plain
        grads = torch.autograd.grad((y * y.detach().roll(1, 0)).sum(), [x, *module.parameters()])
        results.append([y, *grads, module.running_mean, module.running_var])
    for wanted, pair, own in zip(*results, strict=True):
        assert own.stride() == wanted.stride()
        error, allowed = ((t.double() - wanted).abs().max() for t in (own, pair))
        assert error <= 1.5 * allowed + 2 * torch.finfo(torch.float32).eps * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("momentum", [0.3, 1.0, None])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("track", [True, False], ids=["tracked", "untracked"])
def test_flags_of_the_module(dtype: torch.dtype, momentum: float | None, affine: bool, track: bool) -> None:
    """Two batches, then evaluation: outputs, gradients and buffers, in the dtypes of the pair's."""
    options = {"affine": affine, "momentum": momentum, "track_running_stats": track, "dtype": dtype}
    pair, own = nn.Sequential(nn.BatchNorm1d(3, **options), nn.ReLU()), BatchNormReLU1d(3, **options)
    # One unit of bfloat16 in the last place: half precision rounds in other places than the pair.
    tolerance = EAGER if dtype == torch.float32 else {"rtol": 2.0**-7, "atol": 2.0**-7}
    for training in (True, True, False):
        results = []
        for module in (pair, own):
            x = normal(ROWS, 3, seed=int(training)).to(dtype).requires_grad_()
            y = module.train(training)(x)
            # An expanded gradient, as sum() sends it.
            grads = torch.autograd.grad(y.sum(), [x, *module.parameters()]) if dtype == torch.float32 else []
            results.append([y, *grads, *module.buffers()])
        assert is_served(y) == (training or not track)
        for wanted, actual in zip(*results, strict=True):
            torch.testing.assert_close(actual, wanted, **tolerance)


def test_specials_stay_in_their_channel() -> None:
    """NaN and inf as in the pair, gamma zero and negative, and a pre-activation of exactly 0 passes no gradient."""
    x = normal(ROWS, 7)
    x[5, 1], x[6, 2], x[7, 3] = torch.nan, torch.inf, -torch.inf
    x[:, 4] = 2.0
    results = []
    for module in (nn.Sequential(nn.BatchNorm1d(7), nn.ReLU()), BatchNormReLU1d(7)):
        leaf = x.clone().requires_grad_()
        weight, bias = module.parameters()
        with torch.no_grad():
            weight.copy_(torch.tensor([1.0, 1, 1, 1, 1, 0, -2]))
        y = module(leaf)
        dy = normal(ROWS, 7, 1)
        results.append([y, *torch.autograd.grad(y, [leaf, weight, bias], dy), *module.buffers()])
    for wanted, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted, equal_nan=True, rtol=1e-4, atol=1e-3)
    y, dx = results[1][:2]
    assert torch.equal(y.isnan().any(0), torch.tensor([False, True, True, True, False, False, False]))
    assert not dx[:, 4:6].any()


def test_gradient_of_parameters_alone() -> None:
    """An input that wants no gradient gets none, and nothing of its size is held for it."""
    x, dy = normal(2**20, 2), normal(2**20, 2, 1)
    pair, own = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()), BatchNormReLU1d(2)
    y = own(x)
    wanted = torch.autograd.grad(pair(x), list(pair.parameters()), dy)
    actual = torch.autograd.grad(y, list(own.parameters()), dy, retain_graph=True)
    for a, b in zip(actual, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-1)
    assert peak_bytes(lambda: torch.autograd.grad(y, list(own.parameters()), dy), "cpu") < x.nbytes / 2


@pytest.mark.parametrize("channels", [*range(1, 8), 12, 15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_holds_one_activation_less_than_the_pair(channels: int, dtype: torch.dtype) -> None:
    """At the peak of either pass, to within a block and the lanes; for the backward pass both keep x and y."""
    x = normal(2**21 // channels, channels).to(dtype).requires_grad_()
    dy = torch.ones_like(x)
    peaks = []
    for module in (nn.Sequential(nn.BatchNorm1d(channels), nn.ReLU()), BatchNormReLU1d(channels)):

        def step(module: Callable[[Tensor], Tensor] = module) -> object:
            y = module(x)
            return y, torch.autograd.grad(y, [x], dy)

        peaks.append([peak_bytes(lambda module=module: module(x), "cpu"), peak_bytes(step, "cpu")])
        assert saved_bytes(lambda module=module: module(x), (x,)) < x.nbytes + 1000
    for pair, own in zip(*peaks, strict=True):
        # Blocks are float32, so in half precision one holds twice as much of the activation.
        assert own <= pair - (0.8 if dtype == torch.float32 else 0.65) * x.nbytes
    if dtype == torch.float32:
        # The forward pass needs no block beside y.
        assert peaks[1][0] <= 1.05 * x.nbytes


def test_output_may_not_be_changed() -> None:
    """The ReLU's mask comes from y, as in the pair."""
    y = BatchNormReLU1d(3)(normal(ROWS, 3).requires_grad_())
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_same_bits_every_time() -> None:
    """For a number of threads: nothing depends on which of them is faster."""
    x, dy = normal(880_802 // 4, 3).requires_grad_(), normal(880_802 // 4, 3, 1)

    def step() -> list[Tensor]:
        module = BatchNormReLU1d(3)
        y = module(x)
        return [y, *torch.autograd.grad(y, [x, *module.parameters()], dy), *module.buffers()]

    for first, second in zip(step(), step(), strict=True):
        torch.testing.assert_close(first, second, **EXACT)


def test_double_backward() -> None:
    """The gradient of a gradient's norm, against the pair in float64."""
    x, dy = normal(ROWS, 2), normal(ROWS, 2, 1)
    found = []
    for dtype, function in ((torch.float64, F.batch_norm), (torch.float32, batch_norm_relu)):
        leaf, weight = x.to(dtype).requires_grad_(), torch.tensor([1.5, -0.5], dtype=dtype, requires_grad=True)
        y = function(leaf, None, None, weight, training=True).relu()
        grads = torch.autograd.grad((y**2 * dy.to(dtype)).sum(), [leaf, weight], create_graph=True)
        loss = grads[0].square().sum() + grads[1].square().sum() / ROWS
        found.append(torch.autograd.grad(loss, [leaf, weight]))
    for wanted, actual in zip(*found, strict=True):
        assert_near(actual, wanted, 1e-4)


def test_who_is_served() -> None:
    """Many rows of few channels, contiguous, in training and in one of the kernels' dtypes; all else is PyTorch's."""
    x = normal(ROWS, 24)
    three = x[:, :3].contiguous()

    def served(x: Tensor, **options: torch.dtype) -> bool:
        return is_served(BatchNormReLU1d(x.shape[1], **options)(x))

    assert {c for c in range(1, 25) if served(x[: ROWS // 2, :c].contiguous())} == {*range(1, 24)} - {8, 16}
    for half in (torch.half, torch.bfloat16):
        assert {c for c in range(1, 25) if served(x[:, :c].to(half).contiguous())} == {*range(1, 16)} - {8}
    assert served(three.half(), dtype=torch.half)
    assert not served(three[: ROWS // 2 - 1])
    assert not served(three[:-1].half())
    assert not served(x[:, :7])
    assert not served(three.double(), dtype=torch.double)
    assert not is_served(BatchNormReLU1d(3).eval()(three))
    assert not is_served(BatchNormReLU1d(3)(three, three))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_forward_mode_is_that_of_pytorch() -> None:
    """A dual number reaches PyTorch's batch norm, which has a rule for it."""
    x, tangent = normal(ROWS, 3), normal(ROWS, 3, 1)
    tangents = []
    for function in (lambda x: F.batch_norm(x, None, None, training=True).relu(), BatchNormReLU1d(3, affine=False)):
        with forward_ad.dual_level():
            tangents.append(forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent)
    torch.testing.assert_close(*tangents, **EXACT)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore::torch.jit.TracerWarning")
def test_trace_is_that_of_pytorch() -> None:
    """TorchScript cannot record an autograd function of Python."""
    x, module = normal(ROWS, 3).requires_grad_(), BatchNormReLU1d(3)
    traced = torch.jit.trace(module, x)
    torch.testing.assert_close(traced(x), nn.BatchNorm1d(3)(x).relu(), **EXACT)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Callable[[], torch.no_grad | torch.inference_mode]) -> None:
    """The same bits, and no graph."""
    x = normal(ROWS, 3)
    wanted = BatchNormReLU1d(3)(x)
    with mode():
        y = BatchNormReLU1d(3)(x)
    assert not y.requires_grad
    torch.testing.assert_close(y, wanted.detach(), **EXACT)


def test_autocast() -> None:
    """Autocast leaves it alone, as it does the pair."""
    x = normal(ROWS, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = BatchNormReLU1d(3)(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, BatchNormReLU1d(3)(x), **EXACT)


@pytest.mark.parametrize(
    "arguments",
    [
        {"weight": torch.ones(4)},
        {"bias": torch.ones(2)},
        {"running_mean": torch.zeros(2)},
        {"weight": torch.ones(3, dtype=torch.bfloat16)},
        {"eps": -1.0},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_errors_are_those_of_pytorch(arguments: dict[str, Tensor | float]) -> None:
    """What PyTorch's batch norm refuses, with its words."""
    x = normal(ROWS, 3)
    full = {"running_mean": None, "running_var": None, "training": True, **arguments}
    with pytest.raises((RuntimeError, ValueError)) as wanted:
        F.batch_norm(x, **full)
    with pytest.raises(wanted.type) as actual:
        batch_norm_relu(x, **full)
    assert str(actual.value) == str(wanted.value)


def test_a_short_batch_and_a_long_one_before_one_backward_pass() -> None:
    """PyTorch's path, which the short one takes, saves the running statistics that the long one updates."""
    module = BatchNormReLU1d(3)
    loss = module(torch.randn(8, 3)).sum() + module(torch.randn(2**17, 3)).sum()
    loss.backward()
    assert module.weight.grad is not None
    assert module.num_batches_tracked == 2


def test_several_gradients_at_once() -> None:
    """`is_grads_batched` maps the backward pass over many dy."""
    x, dys, module = (
        normal(ROWS, 3).requires_grad_(),
        torch.stack([normal(ROWS, 3, s) for s in (1, 2)]),
        BatchNormReLU1d(3),
    )
    y, leaves = module(x), [x, *module.parameters()]
    assert is_served(y)
    at_once = torch.autograd.grad(y, leaves, dys, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(y, leaves, dy, retain_graph=True) for dy in dys]
    for actual, *wanted in zip(at_once, *one_by_one, strict=True):
        assert_near(actual, torch.stack(wanted), 1e-5)


class NoGradient(torch.autograd.Function):
    """Sends none back."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> None:
        return None


def test_no_gradient_is_none() -> None:
    """Not a gradient of 0, which an optimizer would act on."""
    for module in (nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()), BatchNormReLU1d(3)):
        x = normal(ROWS, 3).requires_grad_()
        NoGradient.apply(module(x)).sum().backward()
        assert x.grad is None
        assert all(parameter.grad is None for parameter in module.parameters())
