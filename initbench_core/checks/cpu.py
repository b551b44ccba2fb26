"""Is the fused module's eager backend as fast on this CPU as nn.BatchNorm1d and nn.ReLU in a row?

    python -m initbench_core.checks.cpu

Prints, for every shape, the ratio of training-step times (pair over fused: above 1, fused is faster), as the median of
interleaved rounds with a 95% bootstrap interval, and how many activations fewer the fused module holds at its peak.
"""

import argparse
import functools
import math
import sys

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from initbench_core.measurement.timing import estimate, paired_times_ms
from initbench_kernels import BatchNormReLU1d

# [rows, channels], float32, 1 MB and more.
SHAPES = [(4096, 64), (1024, 256), (65536, 18), (4096, 1024), (262144, 3), (65536, 64), (16384, 512), (262144, 64)]


def training_step(module: nn.Module, x: Tensor, dy: Tensor) -> None:
    """Run forward and backward and drop the gradients."""
    torch.autograd.grad(module(x), [x, *module.parameters()], dy)


class _PeakMemory(TorchDispatchMode):
    """Track the storage that operations create, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[torch.multiprocessing.reductions.StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        for tensor in outputs:
            if isinstance(tensor, Tensor) and tensor.numel():
                storage = tensor.untyped_storage()
                reference = torch.multiprocessing.reductions.StorageWeakRef(storage)
                self.alive[reference.cdata] = (reference, storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def peak_activations(module: nn.Module, x: Tensor) -> float:
    """Return the most memory that a forward pass holds beside its input, in tensors of the input's size."""
    with _PeakMemory() as memory:
        y = module(x)
    del y
    return memory.peak / (x.numel() * x.itemsize)


def main() -> int:
    """Print the table; return 1 where the fused module is slower than the targets allow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="pairs of samples per shape")
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, training step, {options.rounds} rounds"
    )
    print(
        f"{'rows':>7} {'channels':>8} {'MB':>6} {'pair ms':>9} {'fused ms':>9} {'pair / fused':>24} {'peak saved':>11}"
    )
    logs, worst = [], math.inf
    for rows, channels in SHAPES:
        x, dy = torch.randn(rows, channels, requires_grad=True), torch.randn(rows, channels)
        pair, fused = nn.Sequential(nn.BatchNorm1d(channels), nn.ReLU()), BatchNormReLU1d(channels)
        pair_ms, fused_ms = paired_times_ms(
            functools.partial(training_step, pair, x, dy),
            functools.partial(training_step, fused, x, dy),
            rounds=options.rounds,
        )
        ratio = estimate(pair_ms / fused_ms)
        saved = peak_activations(pair, x) - peak_activations(fused, x)
        print(
            f"{rows:7} {channels:8} {x.numel() * 4 / 1e6:6.1f} {estimate(pair_ms).median:9.3f} "
            f"{estimate(fused_ms).median:9.3f} {ratio.median:9.3f} [{ratio.low:.3f}, {ratio.high:.3f}] {saved:11.2f}",
            flush=True,
        )
        logs.append(math.log(ratio.median))
        worst = min(worst, ratio.median)
    mean = math.exp(sum(logs) / len(logs))
    print(f"geometric mean {mean:.3f} (target 1.1), worst shape {worst:.3f} (target 0.97)")
    return 0 if mean >= 1.1 and worst >= 0.97 else 1


if __name__ == "__main__":
    sys.exit(main())
