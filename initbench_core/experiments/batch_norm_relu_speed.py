"""BatchNorm+ReLU: every implementation against eager PyTorch and against a copy.

Question: over the shapes of real networks, of plain [rows, channels] and of awkward ones, what do the fused operator,
torch.compile and other projects gain over nn.BatchNorm followed by nn.ReLU, in time and in memory?

Each trial is one shape: every implementation is checked against the reference, and a wrong one is not timed; then all
of them and a copy of the same bytes take turns (A B C, B C A, ...). What is timed is the call from Python, wrapper
included, with warm-up and compilation before it; on CUDA between events on the stream, with the L2 cache flushed. A
sample on the CPU repeats its call for 5 ms. Two rounds of every pass are a sitting, and each sitting draws its tensors
anew, for moments and places in memory differ from run to run. Speed-ups are medians of the ratios within rounds with
95% bootstrap intervals; one that includes 1 is called parity. So are geometric means over shapes, for which rounds are
drawn again within each shape: they tell of these shapes, not of others. Bandwidths count the bytes that a fused pass
must move (evaluation one read and one write of the tensor, training forward 2 + 1, backward 4 + 1), whatever an
implementation moves, and the floor is the copy's time for as many bytes. Seconds of the first call include compilation,
with torch's disk caches off. A compiled graph frees its buffers as it runs, so its backward pass cannot be timed alone.

Expected: on the CPU the eager backend saves one pass over the tensor by its ReLU in place, and takes long matrices of
fewer than 8 channels many rows at a time: fwd_bwd at least 1.1 times as fast (geometric mean over tensors of 1 MB and
more), none below 0.97. On CUDA 2 times, with the passes at most 10% over their floor for large tensors.
Source: the targets are this project's own; the shapes are torchvision's, by one pass on the meta device.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from initbench_core.errors import choose
from initbench_core.measurement import contest, shapes
from initbench_core.measurement.contest import Question
from initbench_core.measurement.goals import GOALS, Goal
from initbench_core.measurement.roofline import COPY, bandwidth_gbps
from initbench_core.measurement.shapes import Shape
from initbench_core.measurement.timing import default_algorithms
from initbench_core.measurement.workload import PASSES, Workload
from initbench_core.networks.implementations import BASELINE, IMPLEMENTATIONS, forget_compiled
from initbench_core.presentation import speed, speed_plots, targets
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.statistics import ratio_text
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Emission, Note, Record, scalar
from initbench_core.training.setting import Setting

TIMED = True
LARGE_MB = 1.0
MOST_BYTES = {"cpu": 2**28, "cuda": 2**30}
SHOWN = 24
# Shapes named beside their points: those furthest from the floor, which have a reason of their own, few channels say.
NAMED = 2
# Who takes part of those that compile; max-autotune takes a minute a shape.
COMPILED = {"none": (), "default": ("torch_compile",), "all": ("torch_compile", "torch_compile_max_autotune")}
# Layers of real networks from which on a shape is worth max-autotune.
AUTOTUNED_FROM = 8
KEPT, PEAK, FIRST_CALL = "kept for backward / input", "peak of forward / input", "first call, s"

SMOKE = ("64x3", "4x8x7x7 float32 channels_last")
QUICK = (
    "128x128", "4096x64", "1024x256", "65536x18", "4096x411", "4096x1024", "65536x1", "880802x3", "65536x128",
    "32x64x56x56", "32x256x14x14", "32x512x14x14", "32x512x14x14 float32 channels_last", "32x2048x7x7",
)  # fmt: skip
# Compiling three shapes takes half a minute.
QUICK_COMPILED = ("4096x64", "65536x128", "32x64x56x56")
# What networks train in: the dtype of a shape that names none, and the others of the full profile.
DTYPES = {"cpu": ("float32",), "cuda": ("bfloat16", "float32")}


@dataclass(frozen=True)
class Config:
    """One tensor, with all implementations."""

    shape: str
    occurrences: int  # batch norms of this shape in torchvision's four models at this batch size
    compile: str  # a key of COMPILED
    seed: int = 0


def grid(setting: Setting) -> Iterator[Config]:
    """A selection that fits into two minutes, or everything."""
    dtypes = DTYPES[setting.device]
    if setting.profile == "smoke":
        yield from (Config(str(shapes.parse(text)), 0, "none") for text in SMOKE)
        return
    if setting.profile == "quick":
        counts = shapes.real(32, dtypes[0]) + shapes.real(32, dtypes[0], "channels_last")
        for text in QUICK:
            shape = replace(shapes.parse(text), dtype=dtypes[0])
            yield Config(str(shape), counts[shape], "default" if text in QUICK_COMPILED else "none")
        return
    every: dict[Shape, int] = {}
    for dtype in dtypes:
        every |= dict.fromkeys([*shapes.family(dtype), *shapes.awkward(dtype)], 0)
        for batch in (32, 128):
            for memory in shapes.MEMORY:
                every |= shapes.real(batch, dtype, memory)
    for shape, occurrences in every.items():
        if shape.num_bytes <= MOST_BYTES[setting.device]:
            yield Config(str(shape), occurrences, "all" if occurrences >= AUTOTUNED_FROM else "default")


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Check and time every implementation on one shape."""
    with default_algorithms():
        yield from list(_measure(config, setting))


def _measure(config: Config, setting: Setting) -> Iterator[Emission]:
    forget_compiled()
    workload = Workload(shapes.parse(config.shape), setting.device, seed=config.seed)
    field = contest.admit(workload, compiled=choose("choice of compiled implementations", config.compile, COMPILED))
    for name, reason in field.left_out.items():
        yield Note(f"{name} is not measured: {reason}")
    goal = GOALS[setting.device]
    question = Question(goal.implementation, BASELINE, goal.least)
    asked = {pass_name: [question] if pass_name == "fwd_bwd" else [] for pass_name in PASSES}
    rounds = setting.pick(smoke=2, quick=10, full=20)
    min_ms = setting.pick(smoke=0.0, quick=3.0, full=5.0)
    most = setting.pick(smoke=2, quick=60, full=200)
    times = contest.times_until_decided_ms(field, asked, rounds=rounds, min_ms=min_ms, most=most)
    for pass_name in PASSES:
        yield speed.measurement(pass_name, times[pass_name])
    kept, peak = contest.memory_bytes(field)
    yield speed.by_implementation("kept", "bytes", kept)
    yield speed.by_implementation("peak", "bytes", peak)
    yield speed.by_implementation("first_call", "s", field.first_call_s)
    yield scalar("size", "bytes", workload.shape.num_bytes)
    yield scalar("threads", "1", torch.get_num_threads())


def _rows(records: Sequence[Record]) -> pd.DataFrame:
    """Speed-ups with bandwidth, floor and memory: a row per shape, pass and implementation, the copy included."""
    frame = tidy(records)
    frame = frame.assign(case=frame["shape"].map(speed.short))
    rows = speed.speedups(frame[frame["metric"] == "time"], BASELINE)
    sizes = frame[frame["metric"] == "size"].set_index("case")["value"]
    size = rows["case"].map(sizes)
    is_copy = rows["implementation"] == COPY
    gbps = [bandwidth_gbps(*of) for of in zip(rows["pass"], size, rows["ms"], strict=True)]
    rows["MB"] = size / 1e6
    rows["GB/s"] = pd.Series(gbps).where(~is_copy, 2 * size / rows["ms"] / 1e6)
    rows["time / floor"] = speed.over_floor(rows).map(np.median).where(~is_copy)
    for metric, column, unit in (("kept", KEPT, size), ("peak", PEAK, size), ("first_call", FIRST_CALL, 1)):
        values = frame[frame["metric"] == metric].set_index(["case", "implementation"])["value"]
        keys = zip(rows["case"], rows["implementation"], strict=True)
        rows[column] = pd.Series([values.get(key, float("nan")) for key in keys]) / unit
    occurrences = {speed.short(str(record.config["shape"])): record.config["occurrences"] for record in records}
    return rows.assign(occurrences=rows["case"].map(occurrences))


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per shape, pass and implementation."""
    return _rows(records).drop(columns=speed.SAMPLES).rename(columns={"case": "shape"})


def summary(records: Sequence[Record]) -> pd.DataFrame:
    """The speed-ups in a row per implementation, the missing ones with their reason: the README's table."""
    return speed.summary(_rows(records), _titles(), speed_plots.PASS_TITLES, _left_out(records))


def _titles() -> dict[str, str]:
    return {name: row.title for name, row in IMPLEMENTATIONS.items()}


def _left_out(records: Sequence[Record]) -> dict[str, str]:
    notes = dict.fromkeys(note for record in records for note in record.notes if " is not measured: " in note)
    return dict(note.split(" is not measured: ", 1) for note in notes)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """The target, then each implementation by pass, real networks, compilation, and what was not measured."""
    rows = _rows(records)
    rivals = rows[~rows["implementation"].isin([COPY, BASELINE])]
    whole = rivals[rivals["pass"] == "fwd_bwd"]
    for goal in GOALS.values():
        yield from _judged(whole[(whole["implementation"] == goal.implementation) & (whole["MB"] >= LARGE_MB)], goal)
    for name, row in IMPLEMENTATIONS.items():
        group = rivals[rivals["implementation"] == name]
        if group.empty:
            continue
        parts = [
            f"{speed_plots.PASS_TITLES[p]} {ratio_text(speed.mean_speedup(part))}, {speed.tally(part)}"
            for p, part in ((p, group[group["pass"] == p]) for p in PASSES)
            if len(part)
        ]
        yield f"{row.title} against eager PyTorch, geometric means over shapes: {'; '.join(parts)}."
        real = whole[(whole["implementation"] == name) & (whole["occurrences"] > 0)]
        if len(real):
            mean = speed.mean_speedup(real, real["occurrences"])
            yield (
                f"{row.title} at shapes of real networks, weighted by their {real['occurrences'].sum()} layers: "
                f"forward and backward, times as fast as eager, {ratio_text(mean)}."
            )
        if row.compiled:
            yield f"A first call with {row.title} takes {group[FIRST_CALL].median():.1f} s (median)."
    what = "Time of forward and backward over a copy of the bytes that a fused pass must move, median over shapes"
    floors = speed.medians(rows[rows["pass"] == "fwd_bwd"], "time / floor", _titles())
    yield Finding(f"{what}: {floors}.", "roofline")
    yield Finding(speed.latencies(rows[rows["pass"] == "fwd_bwd"], _titles()), "latency")
    for quantity in (KEPT, PEAK):
        yield Finding(f"Memory {quantity}, median over shapes: {speed.medians(rows, quantity, _titles())}.", "memory")
    yield from _not_measured(rivals, records)


def _not_measured(rivals: pd.DataFrame, records: Sequence[Record]) -> Iterator[str]:
    """What is missing altogether, and what is missing at some shapes."""
    counts, left_out = rivals.groupby("implementation")["case"].nunique(), _left_out(records)
    reasons = [f"{name}: {reason}" for name, reason in left_out.items() if name not in counts]
    yield f"Not measured: {'; '.join(reasons) or 'nothing'}."
    partly = [
        f"{name} at {counts[name]} of {len(records)} ({reason})" for name, reason in left_out.items() if name in counts
    ]
    if partly:
        yield f"Not at every shape: {'; '.join(partly)}."


def _judged(large: pd.DataFrame, goal: Goal) -> Iterator[str]:
    if large.empty:
        return
    mean, every = targets.of_speedups(large, "eager PyTorch", goal.mean, goal.least)
    (_, center), (lowest, ratio) = mean.worst, every.worst
    yield (
        f"{IMPLEMENTATIONS[goal.implementation].title}: forward and backward, times as fast as eager PyTorch, "
        f"{ratio_text(center)}, geometric mean of {len(large)} shapes of 1 MB and more (target {goal.mean}: "
        f"{mean.verdict}). Slowest at {lowest}: {ratio_text(ratio)}. Shapes below {goal.least} (target none): "
        f"{every.count('missed')}, and {every.count('undecided')} undecided."
    )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Speed-ups, bandwidths, latencies and memory."""
    rows, titles = _rows(records), _titles()
    memory = rows[rows["implementation"] != COPY].drop_duplicates(["case", "implementation"])
    cases = rows.drop_duplicates("case").sort_values("MB")["case"]
    # So many rows are read at a glance; of more shapes every n-th by size stands for its neighbours.
    shown = cases[:: -(-len(cases) // SHOWN)]
    eager = rows[(rows["implementation"] == BASELINE) & (rows["pass"] == "fwd_bwd")]
    named = eager.nlargest(NAMED, "time / floor")["case"].tolist()
    look: dict[str, Any] = {"copy": "a copy of the tensor", "named": named}
    draw, of = speed_plots.against_size, f"BatchNorm+ReLU ({len(cases)} shapes, medians)"
    picked = of if len(shown) == len(cases) else f"BatchNorm+ReLU ({len(shown)} of {len(cases)} shapes, medians)"
    return {
        "speedup": speed_plots.speedups(
            rows, titles, title=f"{picked}: times as fast as eager PyTorch, 95% intervals", shown=set(shown)
        ),
        "roofline": draw(
            rows, titles, "GB/s", title=f"{of}: bytes that a fused pass must move, per second", better="higher", **look
        ),
        "latency": draw(rows, titles, "ms", title=f"{of}: time of a call", better="lower", **look),
        "memory": speed_plots.memory(
            memory[["case", "implementation", KEPT, PEAK]],
            titles,
            title=f"{of.replace(', medians', '')}: memory beside the input",
        ),
    }
