"""All implementations of BatchNorm+ReLU on one workload: who takes part, and their times and memory side by side."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor

from initbench_core.measurement.goals import is_open
from initbench_core.measurement.memory import peak_bytes, saved_bytes
from initbench_core.measurement.roofline import COPY, copy_of
from initbench_core.measurement.timing import paired_cuda_times_ms, paired_times_ms
from initbench_core.measurement.workload import Workload
from initbench_core.networks.implementations import (
    IMPLEMENTATIONS,
    Implementation,
    available,
    compiling_anew,
    start_compiler,
)

# Rounds in a row on the same tensors.
SITTING = 2


@dataclass
class Contest:
    """One workload and those who take part.

    Attributes:
        workload: the tensors.
        first_call_s: seconds of the first forward and backward and the first evaluation, compilation included, by the
            name of each implementation that takes part.
        left_out: why the others do not.
        sittings: how often the tensors were drawn again.
    """

    workload: Workload
    first_call_s: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    sittings: int = 0

    def renew(self) -> None:
        """Draw the same tensors again, elsewhere in memory, and let the next in line begin."""
        self.workload = Workload(self.workload.shape, self.workload.x.device, seed=self.workload.seed)
        self.sittings += 1

    def taking_part(self, pass_name: str) -> list[str]:
        """Return the names of those that can run a pass."""
        return [n for n in self.first_call_s if pass_name in self.workload.passes(IMPLEMENTATIONS[n])]

    def call(self, name: str, pass_name: str) -> Callable[[], object]:
        """Return the call that is timed, of an implementation or of the copy."""
        if name == COPY:
            return copy_of(self.workload.x.detach())
        return self.workload.call(IMPLEMENTATIONS[name], pass_name)


class Question(NamedTuple):
    """Is `own` at least `least` times as fast as `over` (an implementation, or the copy)?"""

    own: str
    over: str
    least: float

    def is_open(self, samples: dict[str, list[float]]) -> bool:
        """Tell whether samples of both, by name, leave it undecided; of those who take no part nothing is asked."""
        return {self.own, self.over} <= set(samples) and is_open(samples[self.over], samples[self.own], self.least)


def admit(workload: Workload, *, compiled: Collection[str], among: Collection[str] = ()) -> Contest:
    """Check every implementation on the workload; one that is missing, fails or is wrong is left out, with the reason.

    Args:
        workload: what to run.
        compiled: names of those under torch.compile that take part; they cost seconds to minutes a shape.
        among: names of those to check, all if empty.
    """
    contest = Contest(workload)
    for name, row in IMPLEMENTATIONS.items():
        if among and name not in among:
            continue
        obstacle = available(name, workload.x.device) or row.refuses(workload.x)
        if obstacle is None and row.compiled and name not in compiled:
            obstacle = "takes part at some shapes only"
        if obstacle is None:
            try:
                seconds = _first_call_s(workload, row)
                workload.check(row)
            except Exception as error:  # one implementation's failure, whatever it is, must not lose the others' times
                obstacle = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if obstacle is None:
            contest.first_call_s[name] = seconds
        else:
            contest.left_out[name] = obstacle
    return contest


def _first_call_s(workload: Workload, row: Implementation) -> float:
    if row.compiled:
        start_compiler(workload.x.device.type)
    with compiling_anew():
        started = time.perf_counter()
        for pass_name in ("fwd_bwd", "eval"):
            workload.call(row, pass_name)()
        if workload.x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started


def times_ms(contest: Contest, pass_name: str, *, rounds: int, min_ms: float) -> dict[str, list[float]]:
    """Time a pass of all that take part, and the copy of the same bytes, in turns; `rounds` samples by name."""
    names = [COPY, *contest.taking_part(pass_name)]
    first = contest.sittings % len(names)
    names = names[first:] + names[:first]
    calls = [contest.call(name, pass_name) for name in names]
    if contest.workload.x.is_cuda:
        samples = paired_cuda_times_ms(*calls, rounds=rounds)
    else:
        samples = paired_times_ms(*calls, rounds=rounds, min_ms=min_ms)
    return {name: row.tolist() for name, row in zip(names, samples, strict=True)}


def times_until_decided_ms(
    contest: Contest, questions: Mapping[str, Collection[Question]], *, rounds: int, min_ms: float, most: int
) -> dict[str, dict[str, list[float]]]:
    """Time passes in sittings of two rounds, as `times_ms`, until the intervals answer all questions.

    A sitting has every pass and tensors of its own: what disturbs a moment, or favours a place in memory, would pass
    for a property of one pass if all its rounds came in a row, with an interval that another run does not keep.

    Args:
        contest: who takes part.
        questions: what is asked of each pass to time; of none, its first rounds are all.
        rounds: samples of each before the intervals are looked at, and between; even.
        min_ms: as `paired_times_ms`.
        most: rounds from which on what is open stays undecided.

    Returns:
        Samples by pass and name.
    """
    samples: dict[str, dict[str, list[float]]] = {pass_name: {} for pass_name in questions}
    while open_ := [p for p in questions if _wants_more(samples[p], questions[p], rounds, most)]:
        for pass_name in open_:
            for name, times in times_ms(contest, pass_name, rounds=SITTING, min_ms=min_ms).items():
                samples[pass_name].setdefault(name, []).extend(times)
        contest.renew()
    return samples


def _wants_more(samples: dict[str, list[float]], questions: Collection[Question], rounds: int, most: int) -> bool:
    taken = len(samples.get(COPY, ()))
    if taken < rounds or taken % rounds:
        return True
    return taken < most and any(question.is_open(samples) for question in questions)


def memory_bytes(contest: Contest) -> tuple[dict[str, int], dict[str, int]]:
    """Return what autograd keeps for the backward pass and the forward pass's peak, both beside the input, by name.

    A compiled graph's peak cannot be seen on the CPU and is missing.
    """
    workload = contest.workload

    def forward(name: str) -> Callable[[], Tensor]:
        return cast("Callable[[], Tensor]", contest.call(name, "fwd_train"))

    kept = {name: saved_bytes(forward(name), (workload.x,)) for name in contest.first_call_s}
    seen: Sequence[str] = [n for n in kept if workload.x.is_cuda or not IMPLEMENTATIONS[n].compiled]
    return kept, {name: peak_bytes(forward(name), workload.x.device) for name in seen}
