"""Memory that a training step holds: counted bytes, which repeat exactly, and the process's peak, which does not."""

from .batch_norm_relu import checked
from .common import CPU_IMPLEMENTATIONS, IMPLEMENTATIONS, project

# 64 MB, which stand out against the 0.4 GB of a process that has imported torch; and 1 MB where bytes are counted.
LARGE, SMALL = "262144x64", "4096x64"


class _Step:
    device: str
    param_names = ("implementation",)
    version = "1"
    unit = "tensors of the input's size"

    def setup(self, implementation: str) -> None:
        self.found = checked(implementation, SMALL, self.device)

    def track_exact_saved(self, implementation: str) -> float:
        """Return what autograd keeps between the passes, the output included, over the size of the input."""
        work = self.found.workload
        held = (work.x, work.weight, work.bias, *work.running)
        memory = project("initbench_core.measurement.memory")
        return float(memory.saved_bytes(self.found.calls["fwd_train"], held) / work.shape.num_bytes)

    def track_exact_peak(self, implementation: str) -> float:
        """Return the most that forward and backward hold beside their inputs, over the size of the input."""
        memory = project("initbench_core.measurement.memory")
        return float(memory.peak_bytes(self.found.calls["fwd_bwd"], self.device) / self.found.workload.shape.num_bytes)


class OnCpu(_Step):
    """Bytes are counted by watching operators and storages."""

    device = "cpu"
    params = (CPU_IMPLEMENTATIONS,)


class OnCuda(_Step):
    """Bytes are counted by the allocator of the device."""

    device = "cuda"
    params = (IMPLEMENTATIONS,)


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
