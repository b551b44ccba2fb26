"""Time of fused BatchNorm+ReLU and of what it is compared with, pass by pass, on this machine's CPU and GPU."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from .common import CPU_IMPLEMENTATIONS, IMPLEMENTATIONS, cuda_ms, need, project

# Labels as measurement.shapes reads them: about 4 MB, with aligned channels, with planes, and with neither.
CPU_SHAPES = ("16384x64", "1024x1024", "16x64x28x28", "2201x411")
CUDA_SHAPES = (
    "65536x64 bfloat16",
    "16384x1024 bfloat16",
    "128x64x56x56 bfloat16",
    "128x64x56x56 bfloat16 channels_last",
    "65536x411 bfloat16",
)


class Checked(NamedTuple):
    """Tensors of one shape (a `measurement.workload.Workload`), and an implementation's passes over them."""

    workload: Any
    calls: dict[str, Callable[[], Any]]


# asv calls `setup` before every sample; a process runs one implementation at one shape.
@functools.cache
def checked(name: str, label: str, device: str) -> Checked:
    """Return the passes of an implementation over a shape, after their results were found right.

    Raises:
        NotImplementedError: this machine, or this implementation, cannot take the shape.
        WrongResultError: the result is wrong; its time would say nothing.
    """
    need(device)
    shapes = project("initbench_core.measurement.shapes")
    implementation = project("initbench_core.networks.implementations").implementation(name)
    workload = project("initbench_core.measurement.workload").Workload(shapes.parse(label), device)
    if obstacle := implementation.obstacle(workload.x):
        raise NotImplementedError(obstacle)
    workload.check(implementation)
    passes = workload.passes(implementation)
    return Checked(workload, {pass_name: workload.call(implementation, pass_name) for pass_name in passes})


class _Passes:
    device: str
    param_names = ("implementation", "shape")
    version = "1"

    def setup(self, implementation: str, shape: str) -> None:
        self.calls = checked(implementation, shape, self.device).calls


class OnCpu(_Passes):
    """Float32, on all threads that PyTorch takes."""

    device = "cpu"
    params = (CPU_IMPLEMENTATIONS, CPU_SHAPES)
    # At least 10 samples, at most 100, within half a second, in each of two processes.
    repeat = (10, 100, 0.5)

    def time_fwd_train(self, implementation: str, shape: str) -> None:
        self.calls["fwd_train"]()

    def time_bwd(self, implementation: str, shape: str) -> None:
        self.calls["bwd"]()

    def time_fwd_bwd(self, implementation: str, shape: str) -> None:
        self.calls["fwd_bwd"]()

    def time_eval(self, implementation: str, shape: str) -> None:
        self.calls["eval"]()


class OnCuda(_Passes):
    """Median time on the device, the L2 cache flushed before every call."""

    device = "cuda"
    params = (IMPLEMENTATIONS, CUDA_SHAPES)
    unit = "ms"

    def track_cuda_fwd_train(self, implementation: str, shape: str) -> float:
        return cuda_ms(self.calls["fwd_train"])

    def track_cuda_bwd(self, implementation: str, shape: str) -> float:
        return cuda_ms(self.calls["bwd"])

    def track_cuda_fwd_bwd(self, implementation: str, shape: str) -> float:
        return cuda_ms(self.calls["fwd_bwd"])

    def track_cuda_eval(self, implementation: str, shape: str) -> float:
        return cuda_ms(self.calls["eval"])
