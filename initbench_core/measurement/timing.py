"""The only clock: device times on CUDA, paired times on the CPU.

Both return every sample. Medians are reported, with a bootstrap interval, because times have a long upper tail.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from initbench_core.measurement.bootstrap import bootstrap_interval


@dataclass(frozen=True)
class Estimate:
    """A median and its 95% bootstrap interval, in the unit of the samples.

    Attributes:
        median: of all samples.
        low: 2.5% quantile of the medians of resampled samples.
        high: 97.5% quantile.
        samples: how many samples there were.
    """

    median: float
    low: float
    high: float
    samples: int


def estimate(samples: Sequence[float] | np.ndarray, *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Return the median of `samples` and how far it would move if they were drawn again.

    Args:
        samples: at least one finite number.
        resamples: bootstrap draws.
        seed: of the bootstrap, so that a report can be reproduced from its records.

    Raises:
        ValueError: no samples, or one that is not finite.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"need finite samples, got {values.size} of which {np.isfinite(values).sum()} are finite")
    low, high = bootstrap_interval([values], lambda drawn: np.median(drawn, axis=1), resamples=resamples, seed=seed)
    return Estimate(float(np.median(values)), low, high, values.size)


def cuda_times_ms(call: Callable[[], object], *, warmup_ms: float = 10, measure_ms: float = 40) -> list[float]:
    """Time `call` on the current CUDA device, in milliseconds per call, between events on the stream.

    The L2 cache is flushed before every call, which also lets the host run ahead, so launch overhead does not count
    unless a call takes more of it than the flush does.

    Args:
        call: launches the work; it must not leave gradients behind that the next call adds to.
        warmup_ms: how long to run it first.
        measure_ms: how long to measure.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("cuda_times_ms needs a CUDA device")
    from triton.testing import do_bench

    return list(do_bench(call, warmup=warmup_ms, rep=measure_ms, return_mode="all"))


def paired_cuda_wall_ms(*calls: Callable[[], object], rounds: int = 10, repeats: int = 200) -> np.ndarray:
    """Time calls in turns on the host's clock, in milliseconds per call: what a program bound by launches feels.

    Args:
        calls: what to time, on the current CUDA device.
        rounds: samples of each.
        repeats: back-to-back calls within one sample.

    Returns:
        [calls, rounds] samples.
    """
    for call in calls:
        for _ in range(10):
            call()

    def sample(which: int) -> float:
        call = calls[which]
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e3 / repeats

    return _in_turns(len(calls), rounds, sample)


def paired_times_ms(*calls: Callable[[], object], rounds: int = 30, min_ms: float = 5.0) -> np.ndarray:
    """Time calls on the CPU in turns (A B C, B C A, ...), in milliseconds per call.

    Each round times all of them, so that what disturbs the machine for longer than a round disturbs all alike: compare
    them by the ratio within rounds. Results are freed within the time, as a caller would.

    Args:
        calls: what to time.
        rounds: samples of each.
        min_ms: a sample repeats its call until it has run about that long.

    Returns:
        [calls, rounds] samples.
    """
    repeats = []
    for call in calls:
        call()
        start = time.perf_counter()
        call()
        repeats.append(max(1, round(min_ms / 1e3 / max(1e-9, time.perf_counter() - start))))

    def sample(which: int) -> float:
        call = calls[which]
        start = time.perf_counter()
        for _ in range(repeats[which]):
            call()
        return (time.perf_counter() - start) * 1e3 / repeats[which]

    return _in_turns(len(calls), rounds, sample)


def paired_cuda_times_ms(*calls: Callable[[], object], rounds: int = 10, measure_ms: float = 4.0) -> np.ndarray:
    """Time calls on the current CUDA device in turns, in milliseconds per call; see `cuda_times_ms`.

    Args:
        calls: what to time.
        rounds: samples of each.
        measure_ms: how long to measure for one sample, which is the median of what fits.

    Returns:
        [calls, rounds] samples.
    """

    def sample(which: int) -> float:
        return float(np.median(cuda_times_ms(calls[which], warmup_ms=1, measure_ms=measure_ms)))

    return _in_turns(len(calls), rounds, sample)


@contextmanager
def default_algorithms() -> Iterator[None]:
    """Let torch choose its algorithms as it does for everyone: a run that wants determinism also fills fresh memory."""
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)


def _in_turns(calls: int, rounds: int, sample: Callable[[int], float]) -> np.ndarray:
    """Sample every call once a round; who begins moves on by one, and the direction turns each time all have begun."""
    samples = np.empty((calls, rounds))
    collects = gc.isenabled()
    gc.disable()
    try:
        for r in range(rounds):
            order = [(r + i) % calls for i in range(calls)]
            for which in order if (r // calls) % 2 == 0 else reversed(order):
                samples[which, r] = sample(which)
    finally:
        if collects:
            gc.enable()
    return samples
