"""The compared implementations: complete, right where they run, and missing with a reason where they do not."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from initbench_core.errors import UserError
from initbench_core.networks import implementations, peers
from initbench_core.networks.implementations import IMPLEMENTATIONS, available, implementation
from tests import tolerances

# Compiling takes half a minute: the tests of the speed experiments do it once.
RUNS = [n for n, row in IMPLEMENTATIONS.items() if not row.compiled and available(n, "cpu") is None]


def arguments(*sizes: int, training: bool) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sizes, generator=generator).requires_grad_()
    weight, bias, mean = (torch.randn(sizes[1], generator=generator) for _ in range(3))
    var = torch.rand(sizes[1], generator=generator) + 0.5
    return x, mean, var, weight.requires_grad_(), bias.requires_grad_(), training, 0.1, 1e-5  # type: ignore[return-value]


def test_who_is_compared() -> None:
    assert set(IMPLEMENTATIONS) == {
        "eager", "eager_inplace", "torch_compile", "torch_compile_max_autotune", "fused_eager", "fused_triton",
        "flag_gems", "timm", "apex",
    }  # fmt: skip
    assert {"eager", "eager_inplace", "fused_eager"} <= set(RUNS)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", RUNS)
def test_each_equals_batch_norm_then_relu(name: str, training: bool) -> None:
    mine, theirs = (arguments(6, 4, 3, 3, training=training) for _ in range(2))
    y, wanted = IMPLEMENTATIONS[name].function(*mine), F.relu(F.batch_norm(*theirs))  # type: ignore[arg-type]
    y.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(y, wanted, **tolerances.EAGER)
    for tensor, expected in zip(mine[:5], theirs[:5], strict=True):
        torch.testing.assert_close(tensor, expected, **tolerances.EAGER)
        torch.testing.assert_close(tensor.grad, expected.grad, **tolerances.EAGER)


def test_no_implementation() -> None:
    with pytest.raises(UserError, match="no implementation 'fast': choose from eager, "):
        implementation("fast")
    with pytest.raises(UserError, match="no implementation"):
        available("fast", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a CUDA device")
@pytest.mark.parametrize("name", list(IMPLEMENTATIONS))
def test_without_a_gpu_each_says_why_it_is_missing(name: str) -> None:
    assert available(name, "cuda") == "torch sees no CUDA device here"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    implementations._not_importable.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "timm" in str(available("timm", "cpu"))
    implementations._not_importable.cache_clear()


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert available("torch_compile", "cpu") == "torch.compile needs a compiler: no-such-compiler is not installed"


def test_tensors_that_a_peer_refuses() -> None:
    rows, images = torch.zeros(4, 8), torch.zeros(2, 8, 3, 3)
    assert peers.refuses_but_images(rows)
    assert peers.refuses_but_images(images) is None
    nhwc = images.half().to(memory_format=torch.channels_last)
    assert peers.refuses_but_half_nhwc(nhwc) is None
    for refused in (rows, images, images.half(), nhwc.float(), nhwc[:, :3]):
        assert peers.refuses_but_half_nhwc(refused)


def test_timm_gets_the_callers_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a layer in timm's place: the tensors are lent, not copied, and batches are not counted."""

    class BatchNormAct2d(torch.nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu_()

    layers = types.ModuleType("timm.layers")
    layers.BatchNormAct2d = BatchNormAct2d  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))
    monkeypatch.setitem(sys.modules, "timm.layers", layers)
    peers._timm_layer.cache_clear()
    for training in (True, False):
        mine, theirs = (arguments(6, 4, 3, 3, training=training) for _ in range(2))
        y = peers.timm_batch_norm_act(*mine)  # type: ignore[arg-type]
        torch.testing.assert_close(y, implementations.eager(*theirs), **tolerances.EXACT)
        torch.testing.assert_close(mine[1], theirs[1], **tolerances.EXACT)
    peers._timm_layer.cache_clear()
