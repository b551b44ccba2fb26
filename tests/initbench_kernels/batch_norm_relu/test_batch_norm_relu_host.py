"""What the host does around the kernels for CUDA tensors, seen without a GPU: fake tensors, and launches noted down.

What this cannot show is that a graph replays, or that a second GPU computes: test_batch_norm_relu_gpu.py does, on one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch._subclasses import FakeTensorMode

from initbench_kernels.batch_norm_relu import launch, operators

KERNELS = [name for name in vars(launch) if name.endswith("_kernel")]


class Launch(NamedTuple):
    """A launch: the kernel, the device that was current, the programs, and the arguments."""

    kernel: str
    device: torch.device
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]

    @property
    def host_values(self) -> list[Any]:
        """All that a CUDA graph would keep as it was when the step was captured, but for addresses."""
        return [self.kernel, self.grid, [a for a in self.args if not isinstance(a, torch.Tensor)], self.constants]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    """The launches of a test, none of which runs; cuda:0 is current, and its tensors are fake."""
    current, seen = [torch.device("cuda:0")], []

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        current.append(wanted)
        yield
        current.pop()

    class Kernel:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *args, **constants: seen.append(Launch(self.name, current[-1], grid, args, constants))

    for name in KERNELS:
        monkeypatch.setattr(launch, name, Kernel(name))
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(launch, "_multiprocessors", lambda device: 132)
    launch._plan.cache_clear()
    with FakeTensorMode():
        yield seen
    launch._plan.cache_clear()
    assert current == [torch.device("cuda:0")]


def step(device: str, *, training: bool = True, residual: bool = False, momentum: float | None = 0.1) -> None:
    """Run one forward and one backward pass of [8, 6, 5, 5], of the running statistics that `training` asks for."""
    x, dy, res = (torch.empty(8, 6, 5, 5, device=device) for _ in range(3))
    weight, bias, mean, var = (torch.empty(6, device=device) for _ in range(4))
    tracked = torch.zeros((), dtype=torch.int64, device=device)
    statistics = (None, None, mean, var, tracked) if training else (mean, var, None, None, None)
    _, stats, signs = operators._forward(
        x, res if residual else None, weight, bias, *statistics, momentum, 1e-5, residual
    )
    operators._backward(dy, x, signs if residual else None, weight, bias, stats, training, True, True)


CASES = [(True, False), (True, True), (False, False), (False, True)]


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize(("training", "residual"), CASES)
def test_every_launch_is_on_the_device_of_its_tensors(
    launches: list[Launch], device: str, training: bool, residual: bool
) -> None:
    step(device, training=training, residual=residual)
    assert len(launches) == (4 if training else 3)
    for made in launches:
        assert made.device == torch.device(device)
        assert {a.device for a in made.args if isinstance(a, torch.Tensor)} == {torch.device(device)}


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(("training", "residual"), CASES)
def test_steps_are_alike_and_never_wait_for_the_device(
    launches: list[Launch], training: bool, residual: bool, momentum: float | None
) -> None:
    """A capture forbids reading a value, which a fake tensor has none of, and replays what the host passed then."""
    for _ in range(2):
        step("cuda:0", training=training, residual=residual, momentum=momentum)
    half = len(launches) // 2
    assert [made.host_values for made in launches[:half]] == [made.host_values for made in launches[half:]]


def test_reading_a_value_on_the_host_would_be_seen(launches: list[Launch]) -> None:
    with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
        int(torch.zeros((), dtype=torch.int64, device="cuda:0"))
