"""A workload times only what is right; memory is counted as autograd holds it."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from initbench_core.measurement.memory import peak_bytes, saved_bytes
from initbench_core.measurement.shapes import Shape
from initbench_core.measurement.workload import PASSES, Workload, WrongResultError
from initbench_core.networks.implementations import IMPLEMENTATIONS, Implementation, available, implementation

RUNS = [n for n, row in IMPLEMENTATIONS.items() if not row.compiled and available(n, "cpu") is None]
SHAPES = [
    Shape((512, 3)), Shape((8, 4, 7, 7), "bfloat16", "channels_last"), Shape((8, 1, 7, 7), "float16"),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", RUNS)
def test_what_is_right_passes_and_every_pass_runs(name: str, shape: Shape) -> None:
    workload, row = Workload(shape), implementation(name)
    if row.obstacle(workload.x) is not None:
        pytest.skip("does not take this shape")
    workload.check(row)
    assert workload.passes(row) == list(PASSES)
    for pass_name in PASSES:
        call = workload.call(row, pass_name)
        assert call() is not None
        assert call() is not None, "a pass can be repeated"
    assert workload.x.grad is None, "no gradient is left to be added to"


def _wrong(function: object) -> Implementation:
    return dataclasses.replace(implementation("eager"), name="wrong", function=function)


def without_relu(*arguments: Tensor) -> Tensor:
    return F.batch_norm(*arguments)  # type: ignore[arg-type]


def without_running_statistics(x: Tensor, mean: Tensor, var: Tensor, *others: Tensor) -> Tensor:
    return implementation("eager").function(x, mean.clone(), var.clone(), *others)


def with_half_the_gradient(x: Tensor, *others: Tensor) -> Tensor:
    return implementation("eager").function(x / 2 + (x / 2).detach(), *others)


def always_training(*arguments: Tensor) -> Tensor:
    return implementation("eager").function(*arguments[:5], True, *arguments[6:])


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (without_relu, "output is off"),
        (without_running_statistics, "running statistics is off"),
        (with_half_the_gradient, "dx is off"),
        (always_training, "output in evaluation is off"),
    ],
)
def test_what_is_wrong_is_not_timed(function: object, what: str) -> None:
    with pytest.raises(WrongResultError, match=what):
        Workload(Shape((256, 8))).check(_wrong(function))


def test_not_a_number_is_wrong() -> None:
    with pytest.raises(WrongResultError, match="nan"):
        Workload(Shape((256, 8))).check(_wrong(lambda *a: implementation("eager").function(*a) * float("nan")))


def test_a_compiled_backward_cannot_be_timed_alone() -> None:
    workload, row = Workload(Shape((8, 3))), implementation("torch_compile")
    assert workload.passes(row) == ["fwd_train", "fwd_bwd", "eval"]
    with pytest.raises(ValueError, match="bwd"):
        workload.call(row, "bwd")


def test_the_same_tensors_for_everyone() -> None:
    first, second = Workload(Shape((8, 3))), Workload(Shape((8, 3)))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.running[1], second.running[1])


def test_memory_is_counted() -> None:
    """Four tensors of 4 kB: the two that live at the same time, and the one that the backward pass needs."""
    x = torch.ones(1000, requires_grad=True)

    def forward() -> Tensor:
        return (x * 2).exp()

    assert peak_bytes(forward, "cpu") == 8000
    # exp saves its output; what is x's own does not count.
    assert saved_bytes(forward, (x,)) == 4000
    assert saved_bytes(lambda: (x * x).sum(), (x,)) == 4


def test_views_and_what_is_written_in_place_are_no_new_memory() -> None:
    x = torch.ones(1000)
    assert peak_bytes(lambda: x.view(10, 100).t().add_(1), "cpu") == 0
    assert peak_bytes(lambda: x[:10] * 2, "cpu") == 40
