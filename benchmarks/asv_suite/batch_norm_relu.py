"""Time of fused BatchNorm+ReLU and of what it is compared with, pass by pass, on this machine's CPU and GPU."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from .common import CPU_IMPLEMENTATIONS, IMPLEMENTATIONS, cuda_ms, need_cuda, project

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
    shapes = project("initbench_core.measurement.shapes")
    implementation = project("initbench_core.networks.implementations").implementation(name)
    workload = project("initbench_core.measurement.workload").Workload(shapes.parse(label), device)
    if obstacle := implementation.obstacle(workload.x):
        raise NotImplementedError(obstacle)
    workload.check(implementation)
    passes = workload.passes(implementation)
    return Checked(workload, {pass_name: workload.call(implementation, pass_name) for pass_name in passes})


class OnCpu:
    """Float32, on all threads that PyTorch takes."""

    params = (CPU_IMPLEMENTATIONS, CPU_SHAPES)
    param_names = ("implementation", "shape")
    version = "1"
    # At least 10 samples, at most 100, within half a second, in each of two processes.
    repeat = (10, 100, 0.5)

    def setup(self, implementation: str, shape: str) -> None:
        self.calls = checked(implementation, shape, "cpu").calls

    def time_fwd_train(self, implementation: str, shape: str) -> None:
        self.calls["fwd_train"]()

    def time_bwd(self, implementation: str, shape: str) -> None:
        self.calls["bwd"]()

    def time_fwd_bwd(self, implementation: str, shape: str) -> None:
        self.calls["fwd_bwd"]()

    def time_eval(self, implementation: str, shape: str) -> None:
        self.calls["eval"]()


class OnCuda:
    """Median time on the device, the L2 cache flushed before every call."""

    params = (IMPLEMENTATIONS, CUDA_SHAPES)
    param_names = ("implementation", "shape")
    version = "1"
    unit = "ms"

    def setup(self, implementation: str, shape: str) -> None:
        need_cuda()
        self.calls = checked(implementation, shape, "cuda").calls

    def track_cuda_fwd_train(self, implementation: str, shape: str) -> float:
        return cuda_ms(self.calls["fwd_train"])

    def track_cuda_bwd(self, implementation: str, shape: str) -> float:
        return cuda_ms(self.calls["bwd"])

    def track_cuda_fwd_bwd(self, implementation: str, shape: str) -> float:
        return cuda_ms(self.calls["fwd_bwd"])

    def track_cuda_eval(self, implementation: str, shape: str) -> float:
        return cuda_ms(self.calls["eval"])
