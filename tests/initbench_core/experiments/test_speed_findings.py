"""What the speed experiment says of its records: the target judged by its interval, and what was not measured where."""

import re

import numpy as np
import pytest

from initbench_core.experiments import batch_norm_relu_speed, training_step_speed
from initbench_core.measurement.roofline import COPY
from initbench_core.measurement.workload import PASSES
from initbench_core.presentation import speed
from initbench_core.presentation.finding import finding_of
from initbench_core.records.schema import Record, scalar

LABELS = ("4096x64 float32", "65536x64 float32", "16384x512 float32")


def records(fused: float, noise: float) -> list[Record]:
    """Invent runs on shapes of 1 MB and more: the eager backend is `fused` times as fast, compiled at the first."""
    generator = np.random.default_rng(0)

    def samples(factor: float) -> list[float]:
        return (factor * generator.lognormal(0, noise, 20)).tolist()

    found = []
    for label in LABELS:
        factors = {COPY: 0.1, "eager": 1.0, "fused_eager": 1 / fused}
        notes = ["timm is not measured: not installed: timm"]
        if label == LABELS[0]:
            factors["torch_compile"] = 2.0
        else:
            notes.append("torch_compile is not measured: takes part at some shapes only")
        times = [speed.measurement(name, {n: samples(f) for n, f in factors.items()}) for name in PASSES]
        memory = [speed.by_implementation(name, "bytes", dict.fromkeys(factors, 1.0)) for name in ("kept", "peak")]
        first = speed.by_implementation("first_call", "s", dict.fromkeys(factors, 1.0))
        measured = [*times, *memory, first, scalar("size", "bytes", 2e6)]
        found.append(Record("e", {"shape": label, "occurrences": 2}, "i", measured, notes=notes))
    return found


@pytest.mark.parametrize(
    ("fused", "noise", "says"),
    [
        (1.3, 0.02, "(target 1.1: met)"),
        (1.1, 0.05, "(target 1.1: undecided)"),
        (1.0, 0.01, "(target 1.1: missed)"),
        (1.0, 0.01, "as fast as eager PyTorch, parity (95% "),
    ],
)
def test_the_target_is_judged_by_the_interval_of_the_mean(fused: float, noise: float, says: str) -> None:
    target, *_ = batch_norm_relu_speed.findings(records(fused, noise))
    assert "geometric mean of 3 shapes" in target
    assert says in target


def test_means_have_intervals() -> None:
    sentences = list(batch_norm_relu_speed.findings(records(1.3, 0.02)))
    (own,) = [s for s in sentences if s.startswith("initbench, eager backend against")]
    assert own.count("(95% 1.2") == own.count("3 faster") == len(PASSES)
    (real,) = [s for s in sentences if s.startswith("initbench, eager backend at shapes of real networks")]
    assert "by their 6 layers" in real
    assert "(95% 1.2" in real
    assert "ratios" not in batch_norm_relu_speed.table(records(1.3, 0.02)).columns


def test_a_median_over_some_of_the_shapes_says_so() -> None:
    (floors,) = [s for s in batch_norm_relu_speed.findings(records(1.3, 0.02)) if s.startswith("Time of forward")]
    assert floors.count(" (at 1 of 3)") == 1
    assert re.search(r"; torch.compile [\d.]+ \(at 1 of 3\);", floors)


def test_latencies_are_told_at_both_ends_of_those_who_ran_both() -> None:
    """In milliseconds: the compiled one ran at one shape, the smallest here."""
    found = records(2.0, 0.0)
    for record, num_bytes in zip(found, (1e6, 8e6, 4e6), strict=True):
        record.measurements[-1] = scalar("size", "bytes", num_bytes)
    (told,) = [s for s in batch_norm_relu_speed.findings(found) if s.startswith("Milliseconds")]
    assert told == (
        "Milliseconds of forward and backward at 4096x64 and 65536x64, the smallest and the largest tensor: "
        "nn.BatchNorm, nn.ReLU 1 and 1; initbench, eager backend 0.5 and 0.5."
    )
    assert finding_of("latency", list(batch_norm_relu_speed.findings(found))) == told


def test_what_was_measured_somewhere_is_not_called_missing() -> None:
    *_, missing, partly = batch_norm_relu_speed.findings(records(1.3, 0.02))
    assert missing == "Not measured: timm: not installed: timm."
    assert partly == "Not at every shape: torch_compile at 1 of 3 (takes part at some shapes only)."


def test_a_training_step_is_held_against_what_was_expected_of_it() -> None:
    """No loss, and eager's peak: one network is slower, one at parity with a higher peak, one faster."""
    generator = np.random.default_rng(0)
    records = []
    for network, factor, peak in (("mlp", 1.2, 4e6), ("cnn", 1.0, 5e6), ("resnet18", 0.8, 4e6)):
        times = {name: (f * generator.lognormal(0, 0.02, 15)).tolist() for name, f in
                 (("eager", 1.0), ("fused_eager", factor))}  # fmt: skip
        peaks = speed.by_implementation("peak", "bytes", {"eager": 4e6, "fused_eager": peak})
        first = speed.by_implementation("first_call", "s", dict.fromkeys(times, 1.0))
        measured = [speed.measurement(training_step_speed.PASS, times), peaks, first]
        records.append(Record("training_step_speed", {"network": network, "seed": 0}, "i", measured))
    found = [sentence for sentence in training_step_speed.findings(records) if "expected" in sentence]
    assert found == [
        "Of initbench, eager backend it was expected that it loses nothing: not so, for it is slower at mlp; parity at "
        "cnn; and it is faster at resnet18. And that its peak is eager's: mlp 1.000, cnn 1.250, resnet18 1.000 times "
        "that."
    ]
