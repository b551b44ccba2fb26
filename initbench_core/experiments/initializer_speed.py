"""Initializer speed: one fill of a whole model, against a loop of torch.nn.init.

Question: what does it cost that every weight is a function of (seed, name, position), the same on every machine?
torch.nn.init launches once per tensor and draws from a generator whose values depend on the device; here a whole model
is one launch on a GPU, and chunks of vectorized operations on a CPU.

Expected: on a GPU the loop is bound by its launches, so a model of many small tensors gains most (20 times for the
1000-layer MLP, 5 for resnet50) and a single large tensor nothing (1.0). On two CPU threads and tensors of a million
values or more: uniform at least as fast as torch's serial one, normal within a factor of 4 of torch's Box-Muller where
the raw words come from torch's stateless operators, within 12 from plain integer arithmetic.
Times are whole calls on the host's clock, a GPU's work included, in alternating pairs, more of them while the interval
leaves a target undecided; ratios are medians over pairs. A copy of the same bytes is timed behind them, not among them:
torch's threads spin for a while after it. A fill only writes, so its floor is half the copy's time. Its memory is what
it holds beside the tensors, on one thread; each further thread holds as much.
Source: the targets are this project's own; the generator is Philox4x32-10 of Salmon et al. 2011.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from initbench_core.errors import check_choice
from initbench_core.measurement.fills import STD, is_drawn, torch_loop, workload_tensors
from initbench_core.measurement.goals import against, fill_goal, is_open
from initbench_core.measurement.memory import peak_bytes
from initbench_core.measurement.roofline import FILL_PASSES, copy_of
from initbench_core.measurement.timing import default_algorithms, estimate, paired_times_ms
from initbench_core.presentation import plots, speed
from initbench_core.presentation.statistics import Interval, ratio_text
from initbench_core.records.schema import Emission, Measurement, Record, scalar
from initbench_core.training.setting import Setting
from initbench_kernels.random_fill import Fill, FillPlan, fill_
from initbench_kernels.random_fill.bits import has_stateless_words, plain_words_
from initbench_kernels.random_fill.eager import Loads
from initbench_kernels.random_fill.rows import check_rows

TIMED = True
LARGEST = "tensor_100000000"
DISTRIBUTIONS = ("uniform", "normal", "truncated_normal")

# What stands against the loop: the call with all its checks; a plan made beforehand, as a sweep over seeds has it; and
# on the CPU the same chunks with words from plain integer arithmetic, as an older torch gets them.
CONTENDERS: tuple[str, ...] = ("fill_", "plan", "plain_words")


@dataclass(frozen=True)
class Config:
    """One workload, filled in one way."""

    workload: str  # "resnet50", "mlp_{layers}x{width}" or "tensor_{elements}"
    distribution: str
    contender: str
    seed: int = 0


def grid(setting: Setting) -> Iterator[Config]:
    """Every workload by every contender; small ones where only the code is tried."""
    workloads: tuple[str, ...] = setting.pick(
        smoke=("mlp_5x16", "tensor_10000"),
        quick=("resnet50", "mlp_1000x64", "tensor_1000000"),
        full=("resnet50", "mlp_1000x64", "tensor_1000000", "tensor_10000000", LARGEST),
    )
    for workload in workloads:
        for distribution in DISTRIBUTIONS:
            # torch's truncated normal of 1e8 values takes a CPU five seconds a call.
            if setting.device == "cpu" and (workload, distribution) == (LARGEST, "truncated_normal"):
                continue
            for contender in CONTENDERS:
                # A single tensor's plan saves next to nothing, and the plain words are the CPU's alone.
                if contender == "plan" and workload.startswith("tensor"):
                    continue
                if contender == "plain_words" and setting.device != "cpu":
                    continue
                # They take resnet50 five seconds a distribution.
                if contender == "plain_words" and setting.profile == "quick" and not workload.startswith("tensor"):
                    continue
                yield Config(workload, distribution, contender)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Time the loop and the contender in turns."""
    check_choice("distribution", config.distribution, DISTRIBUTIONS)
    check_choice("contender", config.contender, CONTENDERS)
    tensors = workload_tensors(config.workload, setting.device)
    calls = {"torch": torch_loop(tensors, config.distribution), "fill": contender(tensors, config)}
    elements, threads = sum(tensor.numel() for tensor in tensors.values()), torch.get_num_threads()
    stateless = config.contender != "plain_words" and has_stateless_words(torch.device("cpu"))
    goal = fill_goal(config.workload, config.distribution, stateless, setting.device, elements, threads)
    with default_algorithms():
        theirs, ours = (_finished(call, setting.device) for call in calls.values())
        torch_ms, fill_ms = _times_ms(theirs, ours, goal, setting)
        copy = _finished(copy_of(torch.ones(elements, device=setting.device)), setting.device)
        (copy_ms,) = paired_times_ms(copy, rounds=_rounds(setting), min_ms=1.0).tolist()
    for name, samples in (("torch", torch_ms), ("fill", fill_ms), ("copy", copy_ms)):
        yield Measurement(f"{name}_ms", "ms", samples, {"round": list(range(len(samples)))})
    for name, call in calls.items():
        yield scalar(f"{name}_peak", "bytes", _peak_bytes(call, setting.device))
    yield scalar("size", "bytes", sum(tensor.nbytes for tensor in tensors.values()))
    yield scalar("elements", "1", elements)
    yield scalar("tensors", "1", len(tensors))
    yield scalar("threads", "1", threads)
    if goal is not None:
        yield scalar("target", "1", goal)


def _rounds(setting: Setting) -> int:
    return setting.pick(smoke=2, quick=5, full=20)


def _times_ms(
    theirs: Callable[[], object], ours: Callable[[], object], goal: float | None, setting: Setting
) -> list[list[float]]:
    """Time both in turns, and again until the interval says whether the goal is met, up to a limit."""
    most = setting.pick(smoke=2, quick=40, full=100)
    times = np.empty((2, 0))
    while not times.size or (goal is not None and times.shape[1] < most and is_open(times[0], times[1], goal)):
        times = np.hstack([times, paired_times_ms(theirs, ours, rounds=_rounds(setting), min_ms=1.0)])
    result: list[list[float]] = times.tolist()
    return result


def _peak_bytes(call: Callable[[], object], device: str) -> int:
    """On one thread: what others allocate is not seen on the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return peak_bytes(call, device)
    finally:
        torch.set_num_threads(threads)


def _rows(tensors: Mapping[str, torch.Tensor], distribution: str) -> list[Fill]:
    return [
        Fill(tensor, distribution, name, low=-STD, high=STD, std=STD, a=-2 * STD, b=2 * STD)
        if is_drawn(tensor, tensors)
        else Fill(tensor, "constant", name, value=float(name.endswith("weight")))
        for name, tensor in tensors.items()
    ]


def contender(tensors: Mapping[str, torch.Tensor], config: Config) -> Callable[[], None]:
    rows = _rows(tensors, config.distribution)
    if config.contender == "fill_":
        return lambda: fill_(_rows(tensors, config.distribution), seed=config.seed)
    if config.contender == "plan":
        plan = FillPlan(rows)
        return lambda: plan.fill_(config.seed)
    return lambda: Loads(check_rows(rows)).fill_(config.seed, words=plain_words_)


def _finished(call: Callable[[], object], device: str) -> Callable[[], object]:
    """Return the call with a wait for the GPU behind it."""
    if device == "cpu":
        return call

    def finished() -> None:
        call()
        torch.cuda.synchronize()

    return finished


def _samples(record: Record, metric: str) -> np.ndarray:
    return np.concatenate([m.values for m in record.measurements if m.metric == metric])


def _only(record: Record, metric: str) -> float:
    (value,) = _samples(record, metric)
    return float(value)


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per workload, distribution and contender."""
    rows = []
    for record in records:
        loop_ms, fill_ms, copy_ms = (_samples(record, f"{name}_ms") for name in ("torch", "fill", "copy"))
        ratio, ours, size = estimate(loop_ms / fill_ms), float(np.median(fill_ms)), int(_only(record, "size"))
        rows.append(
            {
                "workload": record.config["workload"],
                "distribution": record.config["distribution"],
                "contender": record.config["contender"],
                "torch.nn.init, ms": np.median(loop_ms),
                "fill, ms": ours,
                "million values/s": _only(record, "elements") / ours / 1e3,
                "GB/s": FILL_PASSES.gbps(size, ours),
                "time / floor": ours / (FILL_PASSES.copies * np.median(copy_ms)),
                "peak of fill / tensors": _only(record, "fill_peak") / size,
                "peak of torch / tensors": _only(record, "torch_peak") / size,
                "torch / fill": ratio.median,
                "low": ratio.low,
                "high": ratio.high,
                "verdict": speed.verdict(Interval(ratio.median, ratio.low, ratio.high)),
                "target": next((m.values[0] for m in record.measurements if m.metric == "target"), None),
                "pairs": ratio.samples,
            }
        )
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """The ratio of every workload and contender, over distributions, against its target."""
    for (workload, contender), group in table(records).groupby(["workload", "contender"], sort=False):
        ratios = ", ".join(f"{row['distribution']} {_judged(row)}" for _, row in group.iterrows())
        yield f"{workload} by {contender}, times as fast as a loop of torch.nn.init (below 1: slower): {ratios}."
    calls = table(records).query("contender == 'fill_'").groupby("distribution", sort=False)
    floors = ", ".join(f"{name} {median:.2g}" for name, median in calls["time / floor"].median().items())
    yield f"Time of fill_ over half a copy of the same bytes (it only writes), median over workloads: {floors}."


def _judged(row: pd.Series) -> str:
    found = Interval(row["torch / fill"], row["low"], row["high"])
    if pd.isna(row["target"]):
        return ratio_text(found)
    return f"{ratio_text(found)} (target {row['target']:.2g}: {against(found.low, found.high, least=row['target'])})"


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """The ratios, a panel per distribution."""
    rows = table(records)
    cells = [
        f"{workload}, {contender}" for workload, contender in zip(rows["workload"], rows["contender"], strict=True)
    ]
    rows = rows.assign(cell=cells)
    names = list(dict.fromkeys(cells))
    figure, axes = plots.panels(
        1,
        len(DISTRIBUTIONS),
        title="Filling a whole model: times as fast as a loop of torch.nn.init",
        height=0.8 + 0.3 * len(names),
        sharey=True,
        squeeze=False,
    )
    for panel, distribution in zip(axes[0], DISTRIBUTIONS, strict=True):
        part = rows[rows["distribution"] == distribution]
        places = [names.index(cell) for cell in part["cell"]]
        errors = np.abs(part[["low", "high"]].to_numpy() - part[["torch / fill"]].to_numpy()).T
        panel.errorbar(part["torch / fill"], places, xerr=errors, ls="", marker="o", ms=5, color=plots.CYCLE[0])
        panel.axvline(1, color=plots.INK, ls=(0, (4, 2)), lw=1.0)
        panel.set(xscale="log", xlim=(min(0.5, rows["low"].min()) / 1.15, max(2.0, rows["high"].max()) * 1.15))
        plots.log_ticks(panel.xaxis)
        panel.set_yticks(range(len(names)), names)
        plots.label(panel, x="times as fast\n(right of 1: faster)", y="", title=distribution)
    axes[0][0].invert_yaxis()
    told = (
        "fill_: the call with its checks; plan: made beforehand; plain_words: random words by plain integer arithmetic"
    )
    figure.supxlabel(told, fontsize=9)
    return {"ratios": figure}
