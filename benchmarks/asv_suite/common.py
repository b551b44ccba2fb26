"""What the suites share: literal parameters, the check of whose source is measured, and the reasons for n/a.

Parameters are literals because asv knows a series by them. The tuples are append-only: an entry that changes its
meaning gets a new name, and a benchmark whose body changes its meaning gets a new `version`. A test holds them equal
to the project's registries.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

# Slow to import, so once: asv forks every benchmark from the process that imported this.
import torch

# Of initbench_core.networks.implementations. Compiled ones are left out: every benchmark runs in a process of its own,
# and would compile anew; the experiment batch_norm_relu_speed times them.
IMPLEMENTATIONS = ("eager", "eager_inplace", "fused_eager", "fused_triton", "flag_gems", "timm", "apex")
# Those of them that have a CPU path.
CPU_IMPLEMENTATIONS = ("eager", "eager_inplace", "fused_eager", "timm")


def project(module: str) -> ModuleType:
    """Import a module of the commit that is measured.

    Raises:
        NotImplementedError: the commit has no such module yet, which asv shows as n/a.
        RuntimeError: it is found elsewhere: a number of another source must not be recorded for this commit.
    """
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("initbench_core", "initbench_kernels"):
            raise
        raise NotImplementedError(f"this commit has no {error.name}") from error
    environment, source = os.environ.get("ASV_ENV_DIR"), Path(str(found.__file__))
    if environment and not source.resolve().is_relative_to(Path(environment).resolve()):
        raise RuntimeError(f"{module} is imported from {source}, not from asv's checkout in {environment}")
    return found


def cuda_ms(call: Callable[[], object]) -> float:
    """Return the median time of a call on the CUDA device, by the project's clock."""
    timing = project("initbench_core.measurement.timing")
    return float(timing.estimate(timing.cuda_times_ms(call)).median)


def need(device: str) -> None:
    """Make a benchmark n/a where there is no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("needs a CUDA device")


def need_triton() -> None:
    """Make a benchmark n/a where Triton is not installed (it is for Linux)."""
    if importlib.util.find_spec("triton") is None:
        raise NotImplementedError("needs Triton")
