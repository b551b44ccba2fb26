"""What the fused operator should reach on a GPU, judged on the records of one `gpu_check` run.

All targets are ratios of times measured in the same run, most of them to a copy of the same bytes.
"""

import math
from collections.abc import Callable
from typing import Any

from initbench_core.measurement.roofline import floor_ms

LARGE_BYTES = 64_000_000
SMALL_SHAPE = [128, 128]
FEW, MANY = [22_369_621, 3], [262_144, 256]

Times = dict[tuple[str, str, str, str], float]


def times_of(records: list[dict[str, Any]]) -> Times:
    """Index the measured times by (label, implementation, pass, metric)."""
    return {
        (r["label"], r["implementation"], r["pass"], r["metric"]): r["value"] for r in records if "outcome" not in r
    }


def speedups(records: list[dict[str, Any]], implementations: tuple[str, ...]) -> dict[str, float]:
    """Return, by label, how much longer than the Triton backend the fastest of these takes (fwd_bwd)."""
    times = times_of(records)
    result = {}
    for label in dict.fromkeys(r["label"] for r in records):
        fused = times.get((label, "fused_triton", "fwd_bwd", "median_ms"))
        others = [times.get((label, name, "fwd_bwd", "median_ms")) for name in implementations]
        measured = [t for t in others if t is not None]
        if fused is not None and measured:
            result[label] = min(measured) / fused
    return result


def over_floor(records: list[dict[str, Any]], pass_name: str) -> dict[str, float]:
    """Return, by label of the large tensors, the fused pass's time over its floor."""
    times = times_of(records)
    large = dict.fromkeys(r["label"] for r in records if r["num_bytes"] >= LARGE_BYTES)
    return {
        label: times[label, "fused_triton", pass_name, "median_ms"]
        / floor_ms(pass_name, times[label, "copy", "copy", "median_ms"])
        for label in large
        if (label, "fused_triton", pass_name, "median_ms") in times
    }


def _ratio(
    records: list[dict[str, Any]], numerator: tuple[Any, str], denominator: tuple[Any, str], metric: str
) -> float:
    """Return the ratio of two forward-and-backward times, each given by (sizes, implementation); NaN if missing."""
    values = {(tuple(r["shape"]), r["implementation"]): r["value"] for r in records
              if r.get("metric") == metric and r["pass"] == "fwd_bwd" and r["dtype"] == "bfloat16"}  # fmt: skip
    a, b = (values.get((tuple(sizes), name), math.nan) for sizes, name in (numerator, denominator))
    return a / b


def summarize(records: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """Return a line per target and whether all were met; a target without data counts as missed."""
    lines, met = ["", "target" + " " * 58 + "measured"], True

    def line(text: str, value: float, *, least: float = -math.inf, most: float = math.inf) -> None:
        nonlocal met
        ok = math.isfinite(value) and least <= value <= most
        met &= ok
        lines.append(f"{text:64}{value:8.3f}  {'met' if ok else 'MISSED'}")

    def worst(values: dict[str, float], pick: Callable[..., float]) -> float:
        return pick(values.values()) if values else math.nan

    def mean(values: dict[str, float]) -> float:
        return math.exp(sum(map(math.log, values.values())) / len(values)) if values else math.nan

    evaluation = {label: 1 / ratio for label, ratio in over_floor(records, "eval").items()}
    line("eval, >= 64 MB: fraction of copy bandwidth >= 0.95, worst", worst(evaluation, min), least=0.95)
    for name, text in (("fwd_train", "forward training"), ("bwd", "backward")):
        line(
            f"{text}, >= 64 MB: time over floor <= 1.10, worst",
            worst(over_floor(records, name), max),
            most=1.1,
        )
    for names, text, goal, least in (
        (("eager",), "eager", 2.0, 1.0),
        (("torch_compile", "torch_compile_max_autotune"), "the better torch.compile", 1.2, 0.95),
    ):
        ratios = speedups(records, names)
        line(f"fwd_bwd against {text}: geometric mean >= {goal}", mean(ratios), least=goal)
        line(f"fwd_bwd against {text}: worst >= {least}", worst(ratios, min), least=least)
    few = _ratio(records, (FEW, "fused_triton"), (MANY, "fused_triton"), "median_ms")
    line("3 channels against 256, equal bytes: time ratio <= 1.3", few, most=1.3)
    for metric in ("median_ms", "wall_ms"):
        small = _ratio(records, (SMALL_SHAPE, "fused_triton"), (SMALL_SHAPE, "eager"), metric)
        line(f"128 x 128 against eager, {metric}: time ratio <= 1.0", small, most=1.0)
    return lines, met
