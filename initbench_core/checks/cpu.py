"""Is the operator's eager backend as fast on this CPU as nn.BatchNorm and nn.ReLU in a row?

    python -m initbench_core.checks.cpu [SHAPE ...] [--implementation NAME]

Prints, for every shape, the ratio of forward and backward times (pair over fused: above 1, fused is faster), as the
median of interleaved rounds with a 95% bootstrap interval, and how many activations fewer the fused operator holds at
its peak. Exit status: 0 the targets are met, 1 they are not, 2 an argument is wrong.
"""

import argparse
import math
import sys

import torch

from initbench_core.checks.arguments import check_fits, check_positive
from initbench_core.errors import UserError
from initbench_core.measurement.memory import peak_bytes
from initbench_core.measurement.shapes import Shape, parse
from initbench_core.measurement.timing import estimate, paired_times_ms
from initbench_core.measurement.workload import Workload
from initbench_core.networks.implementations import BASELINE, available, implementation

# 1 MB and more.
SHAPES = ("4096x64", "1024x256", "65536x18", "4096x1024", "262144x3", "65536x64", "16384x512", "262144x64")

# Of the shape's size, held at least: the input, the result and the gradients of both.
TENSORS = 4


def peak_activations(name: str, shape: Shape) -> float:
    """Return the most memory that a forward pass holds beside its input, in tensors of the input's size."""
    call = Workload(shape).call(implementation(name), "fwd_train")
    return peak_bytes(call, "cpu") / shape.num_bytes


def measure(shapes: list[Shape], name: str, rounds: int) -> bool:
    """Print a row per shape and return whether the targets are met."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, forward and backward, {rounds} rounds")
    print(f"{'shape':>36} {'MB':>6} {'pair ms':>9} {'fused ms':>9} {'pair / fused':>24} {'peak saved':>11}")
    pair, fused = implementation(BASELINE), implementation(name)
    logs, worst = [], math.inf
    for shape in shapes:
        workload = Workload(shape)
        workload.check(fused)
        pair_ms, fused_ms = paired_times_ms(
            workload.call(pair, "fwd_bwd"), workload.call(fused, "fwd_bwd"), rounds=rounds
        )
        ratio = estimate(pair_ms / fused_ms)
        saved = peak_activations(BASELINE, shape) - peak_activations(name, shape)
        print(
            f"{shape!s:>36} {shape.num_bytes / 1e6:6.1f} {estimate(pair_ms).median:9.3f} "
            f"{estimate(fused_ms).median:9.3f} {ratio.median:9.3f} [{ratio.low:.3f}, {ratio.high:.3f}] {saved:11.2f}",
            flush=True,
        )
        logs.append(math.log(ratio.median))
        worst = min(worst, ratio.median)
    mean = math.exp(sum(logs) / len(logs))
    print(f"geometric mean {mean:.3f} (target 1.1), worst shape {worst:.3f} (target 0.97)")
    return mean >= 1.1 and worst >= 0.97


def main() -> int:
    """Run it; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=SHAPES, help='such as "4096x64" or "32x64x56x56 bfloat16"')
    parser.add_argument("--rounds", type=int, default=40, help="samples of each per shape")
    parser.add_argument("--implementation", default="fused_eager", help="what to hold against the pair")
    options = parser.parse_args()
    try:
        if (missing := available(options.implementation, "cpu")) is not None:
            raise UserError(f"{options.implementation} cannot run here: {missing}")
        check_positive(options, "rounds")
        shapes = [parse(text) for text in options.shapes]
        for shape in shapes:
            check_fits(f"shape {str(shape)!r}", TENSORS * shape.num_bytes)
        return 0 if measure(shapes, options.implementation, options.rounds) else 1
    except UserError as error:
        print(f"checks.cpu: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
