"""Memory that a training step holds: counted bytes, which repeat exactly, and the process's peak, which does not."""

from .batch_norm_relu import Checked, checked
from .common import CPU_IMPLEMENTATIONS, IMPLEMENTATIONS, need_cuda, project

# 64 MB, which stand out against the 0.4 GB of a process that has imported torch; and 1 MB where bytes are counted.
LARGE, SMALL = "262144x64", "4096x64"


def saved(found: Checked) -> float:
    """Return what autograd keeps between the passes, the output included, over the size of the input."""
    work = found.workload
    held = (work.x, work.weight, work.bias, *work.running)
    memory = project("initbench_core.measurement.memory")
    return float(memory.saved_bytes(found.calls["fwd_train"], held) / work.shape.num_bytes)


def peak(found: Checked, device: str) -> float:
    """Return the most that forward and backward hold beside their inputs, over the size of the input."""
    memory = project("initbench_core.measurement.memory")
    return float(memory.peak_bytes(found.calls["fwd_bwd"], device) / found.workload.shape.num_bytes)


class OnCpu:
    """Bytes are counted by watching operators and storages."""

    params = (CPU_IMPLEMENTATIONS,)
    param_names = ("implementation",)
    version = "1"
    unit = "tensors of the input's size"

    def setup(self, implementation: str) -> None:
        self.found = checked(implementation, SMALL, "cpu")

    def track_exact_saved(self, implementation: str) -> float:
        return saved(self.found)

    def track_exact_peak(self, implementation: str) -> float:
        return peak(self.found, "cpu")


class OnCuda:
    """Bytes are counted by the allocator of the device."""

    params = (IMPLEMENTATIONS,)
    param_names = ("implementation",)
    version = "1"
    unit = "tensors of the input's size"

    def setup(self, implementation: str) -> None:
        need_cuda()
        self.found = checked(implementation, SMALL, "cuda")

    def track_exact_saved(self, implementation: str) -> float:
        return saved(self.found)

    def track_exact_peak(self, implementation: str) -> float:
        return peak(self.found, "cuda")


class OfProcess:
    """Resident memory of the whole process at its peak, after one training step of the fused operator."""

    version = "1"

    def setup(self) -> None:
        shapes = project("initbench_core.measurement.shapes")
        workload = project("initbench_core.measurement.workload").Workload(shapes.parse(LARGE))
        fused = project("initbench_core.networks.implementations").implementation("fused_eager")
        self.step = workload.call(fused, "fwd_bwd")

    def peakmem_fused_fwd_bwd(self) -> None:
        self.step()
