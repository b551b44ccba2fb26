"""The compiled kernels on a CUDA device, against the float64 reference. Needs torch, triton and pytest only."""

from typing import Any

import pytest
import torch
from batch_norm_oracle import SHAPES, Case, arrange, relative_error
from gpu_device import BACKEND, DEVICE, needs_hardware, sized
from tolerances import FUSED_RELATIVE, LARGE_MEAN_ABSOLUTE, STATISTICS_RELATIVE

from initbench_kernels import BatchNormReLU1d, BatchNormReLU2d, batch_norm_relu

pytestmark = pytest.mark.gpu

# Sizes that an interpreter cannot reach: many splits, limits of cuDNN's batch norm, real networks.
LARGE: dict[str, tuple[tuple[int, ...], str]] = {
    "rows_880802_of_3": ((880_802, 3), "contiguous"),
    "rows_2_20_plus_1_of_16": ((2**20 + 1, 16), "contiguous"),
    "rows_of_one_channel": ((2**20 + 1, 1), "contiguous"),
    "rows_4096_of_411": ((4096, 411), "contiguous"),
    "rows_65536_of_256": ((65536, 256), "contiguous"),
    "rows_100_of_100000": ((100, 100_000), "contiguous"),
    "resnet_stem": ((32, 64, 112, 112), "contiguous"),
    "resnet_stem_channels_last": ((32, 64, 112, 112), "channels_last"),
    "resnet_last": ((32, 2048, 7, 7), "contiguous"),
    "odd_planes": ((31, 33, 17, 17), "contiguous"),
    "three_channels_of_images": ((8, 3, 224, 224), "contiguous"),
    "transposed": ((70_000, 40), "channels_first"),
}


def case_of(name: str, **options: Any) -> Case:
    """Return the case of a shape above, on the device."""
    shape, memory = (SHAPES | LARGE)[name]
    return Case(sized(*shape), memory, device=DEVICE, **options)


def run(case: Case) -> dict[str, torch.Tensor]:
    """One forward and backward, with the default backend."""
    leaves = {"x": case.x, "res": case.res, "weight": case.weight, "bias": case.bias}
    leaves = {name: t.detach().requires_grad_() for name, t in leaves.items() if t is not None}
    running_mean, running_var = case.running_mean.clone(), case.running_var.clone()
    y = batch_norm_relu(
        leaves["x"], running_mean, running_var, leaves.get("weight"), leaves.get("bias"), case.training,
        case.momentum, case.eps, residual=leaves.get("res"), backend=BACKEND,
    )  # fmt: skip
    y.backward(case.dy)
    names = {"x": "dx", "res": "dresidual", "weight": "dweight", "bias": "dbias"}
    grads = {names[name]: leaf.grad for name, leaf in leaves.items()}
    return {"y": y.detach(), "running_mean": running_mean, "running_var": running_var} | grads


def check(case: Case) -> None:
    actual, expected = run(case), case.expected()
    for name, value in actual.items():
        bound = FUSED_RELATIVE[case.dtype] if name in ("y", "dx", "dresidual") else 10 * STATISTICS_RELATIVE
        assert relative_error(value, expected[name]) <= bound, name
    assert actual["y"].stride() == case.x.stride()


# Every combination compiles kernels of its own, half a second each: hence no full product.
CASES = [
    *((name, torch.float32, True) for name in SHAPES),
    *((name, torch.bfloat16, True) for name in LARGE),
    *(
        (name, torch.bfloat16, False)
        for name in ("rows_880802_of_3", "rows_65536_of_256", "resnet_last", "resnet_stem")
    ),
    *((name, torch.float32, True) for name in ("rows_880802_of_3", "rows_65536_of_256", "resnet_last")),
    *((name, torch.float16, True) for name in ("rows_65536_of_256", "odd_planes")),
    *((name, torch.float32, False) for name in ("rows_4096_of_411", "odd_planes")),
]


@pytest.mark.parametrize(("name", "dtype", "training"), CASES, ids=str)
def test_agrees_with_float64(name: str, dtype: torch.dtype, training: bool) -> None:
    """Output, gradients and running statistics."""
    check(case_of(name, dtype=dtype, training=training))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "name",
    [
        "rows_65536_of_256", "resnet_last", "resnet_stem_channels_last", "rows_880802_of_3",
        # Planes and rows that start new bytes of signs.
        "odd_planes", "rows_4096_of_411",
    ],
)  # fmt: skip
def test_residual(name: str, training: bool) -> None:
    """With a residual addition."""
    check(case_of(name, dtype=torch.bfloat16, training=training, residual=True))


@pytest.mark.parametrize("name", ["rows_65536_of_256", "rows_880802_of_3", "resnet_last"])
def test_large_mean(name: str) -> None:
    """A mean of 1e4 standard deviations."""
    case = case_of(name, mean=1e4)
    actual, expected = run(case), case.expected()
    assert (actual["y"] - expected["y"]).abs().max() <= LARGE_MEAN_ABSOLUTE * expected["y"].abs().max()
    assert relative_error(actual["running_var"], expected["running_var"]) <= 10 * STATISTICS_RELATIVE


@pytest.mark.parametrize("name", ["rows_880802_of_3", "resnet_last", "rows_65536_of_256"])
def test_bitwise_repeatable(name: str) -> None:
    """No float atomics: the same call gives the same bits."""
    case = case_of(name, dtype=torch.bfloat16)
    first, second = run(case), run(case)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_nan_is_not_hidden() -> None:
    """The compiled ReLU propagates NaN, to its channel alone."""
    x = torch.randn(1000, 8, device=DEVICE)
    x[5, 2] = float("nan")
    y = batch_norm_relu(x, None, None, training=True, backend=BACKEND)
    assert y[:, 2].isnan().all()
    assert y[:, [0, 1, 3, 4, 5, 6, 7]].isfinite().all()


def test_modules_match_eager_modules() -> None:
    """Cumulative averages and counters, over several steps."""
    fused, plain = BatchNormReLU1d(6, momentum=None).to(DEVICE), torch.nn.BatchNorm1d(6, momentum=None).to(DEVICE)
    for _ in range(3):
        x = torch.randn(100, 6, device=DEVICE)
        torch.testing.assert_close(fused(x), plain(x).relu(), rtol=1e-4, atol=1e-5)
    for actual, wanted in zip(fused.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(actual, wanted)
    assert fused.num_batches_tracked == 3


def test_other_strides() -> None:
    """Sliced input, gradient in another layout."""
    base = torch.randn(8, 16, 20, 20, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    for x in (base[:, ::2], base[..., 1:-1], base.permute(3, 1, 0, 2)):
        case = Case(tuple(x.shape), device=DEVICE)
        case.x, case.dy = x, arrange(case.dy, "channels_last")
        case.settle_signs()
        check_strided = run(case)
        expected = case.expected()
        for key, value in check_strided.items():
            assert relative_error(value, expected[key]) <= 10 * STATISTICS_RELATIVE, key


@needs_hardware
def test_cuda_graph() -> None:
    """A captured training step replays, running statistics and counter included."""
    module = BatchNormReLU2d(16).to(DEVICE)
    x = torch.randn(4, 16, 8, 8, device=DEVICE, requires_grad=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(module(x).sum(), [x, module.weight])
    torch.cuda.current_stream().wait_stream(stream)
    before = int(module.num_batches_tracked)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = module(x)
        (dx,) = torch.autograd.grad(y.square().sum(), [x])
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    plain = torch.nn.BatchNorm2d(16).to(DEVICE)
    wanted = plain(x).relu()
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dx, torch.autograd.grad(wanted.square().sum(), x)[0], rtol=1e-3, atol=1e-4)
    assert int(module.num_batches_tracked) == before + 1


@needs_hardware
def test_compile_inductor_fullgraph() -> None:
    """torch.compile's default backend, one graph, forward and backward."""
    plain, module = BatchNormReLU2d(16).to(DEVICE), BatchNormReLU2d(16).to(DEVICE)
    compiled = torch.compile(module, fullgraph=True)
    x = torch.randn(4, 16, 9, 9, device=DEVICE)
    results = []
    for call, owner in ((plain, plain), (compiled, module)):
        leaf = x.clone().requires_grad_()
        y = call(leaf)
        results.append([y, *torch.autograd.grad(y.square().sum(), [leaf, owner.weight]), *owner.buffers()])
    for wanted, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore::torch.jit.TracerWarning")
def test_trace_records_pytorch() -> None:
    """TorchScript cannot record the kernels: where they are not named, PyTorch's batch norm serves it."""
    module = BatchNormReLU2d(8).to(DEVICE).eval()
    x = torch.randn(2, 8, 5, 5, device=DEVICE)
    torch.testing.assert_close(torch.jit.trace(module, x)(x), module(x), rtol=1e-4, atol=1e-5)


def test_autocast() -> None:
    """A half-precision activation with float32 parameters, as a convolution under autocast makes it."""
    conv, norm = torch.nn.Conv2d(3, 8, 3).to(DEVICE), BatchNormReLU2d(8).to(DEVICE)
    x = torch.randn(2, 3, 16, 16, device=DEVICE)
    with torch.autocast(DEVICE, dtype=torch.float16):
        y = norm(conv(x))
    assert y.dtype == torch.float16
    y.float().sum().backward()
    assert norm.weight.grad.dtype == torch.float32


@needs_hardware
@pytest.mark.parametrize(("rows", "channels"), [(2**23 + 3, 257), (2**31 + 4096, 1)])
def test_more_than_2_31_elements(rows: int, channels: int) -> None:
    """Addresses are 64-bit, also within one channel. The input is 0 but for one 1 in each channel, its last value."""
    needed = 6 * rows * channels * 2 + 2**30
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of device memory")
    x = torch.zeros(rows, channels, dtype=torch.bfloat16, device=DEVICE)
    x[-1] = 1.0
    x.requires_grad_()
    y = batch_norm_relu(x, None, None, training=True)
    # One 1 among zeros: (1 - 1/M) / sqrt(1/M - 1/M^2 + eps), and zeros elsewhere.
    p = 1 / rows
    wanted = (1 - p) / (p - p * p + 1e-5) ** 0.5
    assert (y[-1].float() - wanted).abs().max() <= 2.0**-7 * wanted
    assert y[:-1].amax() == 0
    # A gradient of 1 reaches only the one positive value: g - mean(g) - x_hat * mean(g x_hat), times 1 / sigma.
    (dx,) = torch.autograd.grad(y, x, torch.ones((), dtype=y.dtype, device=DEVICE).expand_as(y))
    at_one = (1 - p - wanted * p * wanted) / (p - p * p + 1e-5) ** 0.5
    assert (dx[-1].float() - at_one).abs().max() <= 2.0**-6 * abs(at_one) + 1e-3
    assert dx[:-1].abs().amax() <= 1e-3


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second CUDA device")
def test_second_device() -> None:
    """The launch follows the tensor, whatever device is current."""
    case = Case((300, 18), device="cuda:1")
    check(case)


def test_empty_batch_and_double() -> None:
    """What the kernels do not serve goes to PyTorch where no backend was named, and is refused where one was."""
    assert BatchNormReLU1d(3).to(DEVICE)(torch.empty(0, 3, device=DEVICE)).shape == (0, 3)
    x = torch.randn(8, 3, dtype=torch.float64, device=DEVICE)
    assert batch_norm_relu(x, None, None, training=True).dtype == torch.float64
    with pytest.raises(RuntimeError, match="float64"):
        batch_norm_relu(x, None, None, training=True, backend="triton")
