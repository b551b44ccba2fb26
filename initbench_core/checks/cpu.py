"""Is the operator's eager backend as fast on this CPU as nn.BatchNorm and nn.ReLU in a row?

    python -m initbench_core.checks.cpu [SHAPE ...] [--implementation NAME]

Prints, for every shape, how many times as fast the operator is forward and backward, as the median of interleaved
rounds with a 95% bootstrap interval, and how many activations fewer it holds at its peak. Rounds go on until the
intervals of every shape and of the mean are on one side of their targets, or to --most-rounds.
Exit status: 0 all are met, 1 one is missed or undecided, 2 an argument is wrong.
"""

import argparse
import sys
from collections.abc import Mapping

import pandas as pd
import torch

from initbench_core.checks.arguments import check_fits, check_positive
from initbench_core.errors import UserError
from initbench_core.measurement import contest
from initbench_core.measurement.goals import GOALS
from initbench_core.measurement.memory import peak_bytes
from initbench_core.measurement.shapes import Shape, parse
from initbench_core.measurement.workload import Workload
from initbench_core.networks.implementations import BASELINE, available, forget_compiled, implementation
from initbench_core.presentation import speed
from initbench_core.presentation.targets import Target, of_speedups
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Record

# 1 MB and more.
SHAPES = ("4096x64", "1024x256", "65536x18", "4096x1024", "262144x3", "65536x64", "16384x512", "262144x64")
GOAL = GOALS["cpu"]

# Of the shape's size, held at least: the input, the result and the gradients of both.
TENSORS = 4

Samples = dict[str, list[float]]


def peak_activations(name: str, shape: Shape) -> float:
    """Return the most memory that a forward pass holds beside its input, in tensors of the input's size."""
    call = Workload(shape).call(implementation(name), "fwd_train")
    return peak_bytes(call, "cpu") / shape.num_bytes


def times_ms(shape: Shape, name: str, rounds: int, most: int) -> Samples:
    """Time the pair and an implementation until its shape is decided; what is not right is named and not timed."""
    forget_compiled()
    field = contest.admit(Workload(shape), compiled=(name,), among=(BASELINE, name))
    for left_out, reason in field.left_out.items():
        print(f"{left_out} is not measured: {reason}", flush=True)
    asked = {"fwd_bwd": [contest.Question(name, BASELINE, GOAL.least)]}
    return contest.times_until_decided_ms(field, asked, rounds=rounds, min_ms=5.0, most=most)["fwd_bwd"]


def speedups(times: Mapping[Shape, Samples], name: str) -> pd.DataFrame:
    """Return the implementation's rows of `speed.speedups`, one a shape; what was not timed has no speed-up."""
    records = [
        Record("cpu_check", {"case": str(shape)}, "", [speed.measurement("fwd_bwd", samples)])
        for shape, samples in times.items()
    ]
    rows = speed.speedups(tidy(records), BASELINE)
    return rows[rows["implementation"] == BASELINE][["case"]].merge(
        rows[rows["implementation"] == name], how="left", on="case"
    )


def show(shape: Shape, row: pd.Series, name: str) -> None:
    """Print what was measured at a shape."""
    saved = peak_activations(BASELINE, shape) - peak_activations(name, shape)
    print(
        f"{shape!s:>36} {shape.num_bytes / 1e6:6.1f} {row['ms']:9.3f} {row['speed-up']:6.3f} "
        f"[{row['low']:.3f}, {row['high']:.3f}] {row['rounds']:7.0f} {saved:11.2f}",
        flush=True,
    )


def measure(shapes: list[Shape], name: str, rounds: int, most: int) -> tuple[Target, Target]:
    """Print a row per shape, then go on until the mean is decided too; return the targets, judged."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, forward and backward")
    print(f"{'shape':>36} {'MB':>6} {'ms':>9} {'times as fast':>22} {'rounds':>7} {'peak saved':>11}")
    times: dict[Shape, Samples] = {}
    for shape in shapes:
        times[shape] = times_ms(shape, name, rounds, most)
        row = speedups({shape: times[shape]}, name).iloc[0]
        if row["speed-up"] > 0:
            show(shape, row, name)
    while True:
        mean, every = of_speedups(speedups(times, name), "nn.BatchNorm, nn.ReLU", GOAL.mean, GOAL.least)
        open_ = [shape for shape, samples in times.items() if len(samples[BASELINE]) < most]
        if mean.verdict != "undecided" or not open_:
            return mean, every
        print(f"{mean}: more rounds", flush=True)
        for shape in open_:
            more = times_ms(shape, name, rounds, rounds)
            times[shape] = {n: samples + more[n] for n, samples in times[shape].items()}


def main() -> int:
    """Run it; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=SHAPES, help='such as "4096x64" or "32x64x56x56 bfloat16"')
    parser.add_argument("--rounds", type=int, default=20, help="samples of each before an interval is looked at")
    parser.add_argument("--most-rounds", type=int, default=100, help="samples after which all stays undecided")
    parser.add_argument("--implementation", default=GOAL.implementation, help="what to hold against the pair")
    options = parser.parse_args()
    name = options.implementation
    try:
        if (missing := available(name, "cpu")) is not None:
            raise UserError(f"{name} cannot run here: {missing}")
        if name == BASELINE:
            raise UserError(f"{name} is what all others are held against")
        check_positive(options, "rounds", "most_rounds")
        shapes = [parse(text) for text in options.shapes]
        for shape in shapes:
            check_fits(f"shape {str(shape)!r}", TENSORS * shape.num_bytes)
    except UserError as error:
        print(f"checks.cpu: {error}", file=sys.stderr)
        return 2
    targets = measure(shapes, name, options.rounds, options.most_rounds)
    print(*targets, sep="\n")
    return 0 if all(target.verdict == "met" for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
