"""Bad input: PyTorch's own exceptions and messages, and backends that cannot serve."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

import initbench_kernels
from initbench_kernels import BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d, batch_norm_relu
from initbench_kernels.batch_norm_relu.function import choose_backend


@pytest.mark.parametrize(
    ("fused", "plain", "shape"),
    [
        (BatchNormReLU1d, nn.BatchNorm1d, (4, 3, 2, 2)),
        (BatchNormReLU1d, nn.BatchNorm1d, (3,)),
        (BatchNormReLU2d, nn.BatchNorm2d, (4, 3)),
        (BatchNormReLU2d, nn.BatchNorm2d, (4, 3, 2)),
        (BatchNormReLU3d, nn.BatchNorm3d, (4, 3, 2, 2)),
        (BatchNormReLU1d, nn.BatchNorm1d, (4, 5)),
        (BatchNormReLU2d, nn.BatchNorm2d, (4, 5, 2, 2)),
        (BatchNormReLU1d, nn.BatchNorm1d, (1, 3)),
        (BatchNormReLU2d, nn.BatchNorm2d, (1, 3, 1, 1)),
    ],
    ids=str,
)
def test_module_raises_what_torch_raises(
    fused: type[nn.Module], plain: type[nn.Module], shape: tuple[int, ...]
) -> None:
    """Wrong dimensions, wrong channel counts, one value per channel."""
    with pytest.raises((ValueError, RuntimeError)) as wanted:
        plain(3)(torch.randn(shape))
    with pytest.raises(wanted.type) as actual:
        fused(3)(torch.randn(shape))
    assert str(actual.value) == str(wanted.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"weight": torch.ones(4)},
        {"bias": torch.ones(2)},
        {"running_mean": torch.zeros(5), "running_var": torch.ones(5)},
        {"running_mean": None, "running_var": None, "training": False},
        {"running_mean": None, "training": False},
        {"running_mean": None, "training": True},
        {"running_var": None, "training": True},
        {"eps": -1.0},
        {"eps": 0.0, "training": True},
        {"momentum": None, "training": True},
    ],
    ids=lambda arguments: ",".join(arguments) if isinstance(arguments, dict) else str(arguments),
)
@pytest.mark.parametrize("backend", [None, "eager", "triton"])
def test_function_raises_what_torch_raises(
    arguments: dict[str, object], backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Malformed arguments of the function, on a device that either backend could serve."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    call = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)} | arguments
    with pytest.raises((ValueError, RuntimeError, TypeError)) as wanted:
        torch.nn.functional.batch_norm(torch.randn(4, 3), **call)
    with pytest.raises(wanted.type) as actual:
        batch_norm_relu(torch.randn(4, 3), **call, backend=backend)
    assert str(actual.value) == str(wanted.value)


@pytest.mark.parametrize("shape", [(4, 2), (5, 4, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_residual_that_does_not_broadcast(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """PyTorch's error of an addition in place, whatever the dtypes: the output is as large as the input."""
    with pytest.raises(RuntimeError, match=r"size|shape"):
        batch_norm_relu(torch.randn(4, 3), None, None, training=True, residual=torch.randn(shape).to(dtype))


def test_named_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that was named is never replaced in silence."""
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        batch_norm_relu(x, None, None, training=True, backend="cuda")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        batch_norm_relu(x, None, None, training=True, backend="triton")
    monkeypatch.setenv("INITBENCH_BACKEND", "triton")
    with pytest.raises(RuntimeError, match="cannot serve"):
        BatchNormReLU1d(3)(x)
    assert BatchNormReLU1d(3).backend is None
    batch_norm_relu(x, None, None, training=True, backend="eager")


def test_backends_named_by_the_environment_inside_a_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's batch norm serves torch.func's transforms where nothing is named; what is named is never replaced."""
    x = torch.randn(2, 4, 3)
    calls = (torch.func.vmap(BatchNormReLU1d(3, track_running_stats=False)), torch.func.vmap(torch.func.grad(_loss)))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for name, error in (("bogus", ValueError), ("triton", RuntimeError)):
        monkeypatch.setenv("INITBENCH_BACKEND", name)
        for call in calls:
            with pytest.raises(error, match=r"unknown backend|cannot serve"):
                call(x)
    monkeypatch.setenv("INITBENCH_BACKEND", "eager")
    assert all(call(x).shape == x.shape for call in calls)


def _loss(x: torch.Tensor) -> torch.Tensor:
    return batch_norm_relu(x, None, None, training=True).square().sum()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"input": torch.randn(4, 3, dtype=torch.float64)}, "not torch.float64"),
        ({"weight": torch.ones(3, dtype=torch.float16)}, "parameters and running statistics must be float32"),
        ({"weight": torch.ones(3), "bias": torch.ones(3).bfloat16(), "input": torch.randn(4, 3).bfloat16()}, "differ"),
        ({"residual": torch.randn(4, 3).half()}, "the residual is torch.float16"),
        ({"running_mean": torch.zeros(6)[::2], "running_var": torch.ones(3)}, "not contiguous"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_triton_says_why_it_cannot_serve(
    arguments: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsupported dtypes and strides, on a device that could otherwise serve."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    call = {"input": torch.randn(4, 3), "running_mean": None, "running_var": None, "training": True} | arguments
    with pytest.raises(RuntimeError, match=reason):
        batch_norm_relu(**call, backend="triton")


@pytest.mark.parametrize("name", ["weight", "running_mean", "residual"])
def test_tensors_without_memory_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DTensor beside a plain input, say: no kernel may read what it points to."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    call = {"running_mean": torch.zeros(3), "running_var": torch.ones(3), "weight": torch.ones(3), "residual": None}
    sizes = (4, 3) if name == "residual" else (3,)
    call[name] = TwoTensor(torch.ones(sizes), torch.ones(sizes))
    with pytest.raises(RuntimeError, match="the input alone is a plain one"):
        batch_norm_relu(torch.randn(4, 3), **call, backend="triton")


def test_classes_with_rules_of_their_own_get_pytorchs_batch_norm() -> None:
    """Their rules are for PyTorch's operators; ours serve them where they are named."""
    with FakeTensorMode():
        x = torch.empty(4, 3, device="cuda")
    arguments = {"training": True, "momentum": 0.1, "eps": 1e-5}
    found = [choose_backend(name, x, None, (None, None), (None, None), **arguments) for name in (None, "triton")]
    assert found == ["eager", "triton"]


def test_import_does_not_import_triton() -> None:
    """`import initbench_kernels` works without Triton and costs no more than PyTorch."""
    code = "import sys, initbench_kernels; assert 'triton' not in sys.modules, 'triton was imported'"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_public_names() -> None:
    """The package's table of contents."""
    for name in ("batch_norm_relu", "BatchNormReLU1d", "BatchNormReLU2d", "BatchNormReLU3d"):
        assert name in initbench_kernels.__all__
