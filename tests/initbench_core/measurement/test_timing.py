"""The clock and the memory floor."""

import time

import numpy as np
import pytest
import torch

from initbench_core.measurement.roofline import FUSED_PASSES, bandwidth_gbps, floor_ms
from initbench_core.measurement.timing import cuda_times_ms, estimate, paired_times_ms


def test_estimate_covers_the_median() -> None:
    """The interval holds the true median about as often as it says, and shrinks with samples."""
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval = estimate(generator.exponential(size=60), resamples=300, seed=trial)
        hits += interval.low <= np.log(2) <= interval.high
    assert 180 <= hits <= 199
    wide, narrow = (estimate(generator.normal(size=n)) for n in (20, 2000))
    assert narrow.high - narrow.low < (wide.high - wide.low) / 3


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")]])
def test_estimate_refuses_what_is_no_sample(samples: list[float]) -> None:
    """Nothing, and numbers that are none."""
    with pytest.raises(ValueError, match="finite samples"):
        estimate(samples)


def test_paired_times_tell_slow_from_fast() -> None:
    """Twice the sleep takes about twice the time, whichever call comes first."""
    slow, fast = paired_times_ms(lambda: time.sleep(4e-3), lambda: time.sleep(2e-3), rounds=8, min_ms=2)
    assert slow.shape == fast.shape == (8,)
    assert 1.3 < np.median(slow / fast) < 2.5


def test_any_number_of_calls_take_turns() -> None:
    """Every call is first, and behind every other one, about equally often."""
    order: list[str] = []
    calls = [lambda name=name: order.append(name) for name in "abc"]
    assert paired_times_ms(*calls, rounds=6, min_ms=0).shape == (3, 6)
    # Two calls of each find out how long it takes.
    turns = ["".join(order[i : i + 3]) for i in range(6, len(order), 3)]
    assert turns == ["abc", "bca", "cab", "cba", "acb", "bac"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a CUDA device")
def test_cuda_clock_says_what_it_needs() -> None:
    """No device, no time."""
    with pytest.raises(RuntimeError, match="needs a CUDA device"):
        cuda_times_ms(lambda: None)


def test_floor() -> None:
    """Training reads x twice and writes y: one and a half copies; both passes are additive."""
    assert floor_ms("fwd_train", 2.0) == 3.0
    assert floor_ms("bwd", 2.0) == 5.0
    assert FUSED_PASSES["fwd_bwd"].copies == FUSED_PASSES["fwd_train"].copies + FUSED_PASSES["bwd"].copies
    # 3 passes over 1e9 bytes in 1 ms.
    assert bandwidth_gbps("fwd_train", 10**9, 1.0) == pytest.approx(3000)
