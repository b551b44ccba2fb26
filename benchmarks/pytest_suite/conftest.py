"""What the speed tests share: the device, the clock, and what is written beside each number.

Times are whole calls on the host's clock. On CUDA the timed call ends with torch.cuda.synchronize(), so it holds the
launches and the work; `extra_info` then has the device's own time too, between events with the L2 cache flushed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from initbench_core import environment
from initbench_core.measurement.roofline import Passes, copy_of
from initbench_core.measurement.timing import cuda_times_ms, paired_times_ms


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Say on what the suite ran, as the records of experiments do.

    --benchmark-compare warns where two machines differ: the commit and the clock's frequency of the moment, which
    differ from run to run, stay out of it.
    """
    described = environment.describe("cuda" if torch.cuda.is_available() else "cpu")
    machine_info["initbench"] = {key: value for key, value in described.items() if key not in ("commit", "dirty")}
    for momentary in ("hz_actual", "hz_actual_friendly"):
        machine_info["cpu"].pop(momentary, None)


@pytest.fixture(scope="session")
def device() -> str:
    """CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def timed(benchmark: Any, device: str) -> Callable[..., None]:
    """Time a call and note what its number depends on; call it once the result has been checked.

    `num_bytes` is the size of what the call goes over, `passes` how often it has to at the least.
    """

    def time(
        call: Callable[[], object],
        *,
        group: str,
        dtype: str,
        num_bytes: int,
        passes: Passes,
    ) -> None:
        def finished() -> None:
            call()
            if device == "cuda":
                torch.cuda.synchronize()

        benchmark.group = group
        benchmark.pedantic(finished, rounds=_rounds(finished), iterations=1, warmup_rounds=2)
        described = environment.describe(device)
        benchmark.extra_info |= {
            "device": described["device_name"],
            "threads": described["threads"],
            "dtype": dtype,
            "bytes": (passes.reads + passes.writes) * num_bytes,
            "versions": described["packages"],
            "commit": described["commit"],
        }
        # Without statistics (--benchmark-disable) the call ran once, to be tried.
        milliseconds = benchmark.stats.stats.median * 1e3 if benchmark.stats else None
        if device == "cuda":
            milliseconds = float(np.median(cuda_times_ms(call)))
            benchmark.extra_info["device_ms"] = milliseconds
        if milliseconds is not None:
            benchmark.extra_info |= {
                "GB/s": passes.gbps(num_bytes, milliseconds),
                "times the copy's": milliseconds / (passes.copies * _copy_ms(num_bytes, device)),
            }

    return time


def _copy_ms(num_bytes: int, device: str) -> float:
    """Return the median time of a copy, of one read and one write of `num_bytes`, into memory that is there."""
    copy = copy_of(torch.zeros(num_bytes, dtype=torch.uint8, device=device))
    return float(np.median(cuda_times_ms(copy) if device == "cuda" else paired_times_ms(copy, rounds=10)))


def _rounds(call: Callable[[], object]) -> int:
    """As many rounds as fit into half a second, 10 to 1,000."""
    call()
    milliseconds = float(paired_times_ms(call, rounds=1, min_ms=0)[0, 0])
    return int(min(1000, max(10, 500 / max(1e-3, milliseconds))))
