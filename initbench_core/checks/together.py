"""How much faster do the seeds of a cell train together than one by one?

    python -m initbench_core.checks.together [--depth 3 8 20] [--device cuda] [--threads 2]

Trains MLPs of width 100 with BatchNorm on the 5,000 digits in batches of 128, 10 seeds for 250 steps, both ways in
turns. Prints, for every depth, trials per second and their ratio: the median over rounds with a 95% bootstrap interval.
The target (2 times on a CPU, 10 times on CUDA) is met where the whole interval reaches it and missed where none of it
does; rounds go on until one of the two, or until the depth's share of --seconds is spent. It wants idle cores: two
threads that wait for others' work tell nothing of either way.
Exit status: 0 met at every depth, 1 missed or undecided at one, 2 an argument is wrong.
"""

import argparse
import sys
import time

import numpy as np
import pandas as pd
import torch
from torch import nn

from initbench_core.checks.arguments import check_fits, check_positive
from initbench_core.environment import choose_device, device_name
from initbench_core.errors import UserError
from initbench_core.execution.heap import keep_freed_memory
from initbench_core.measurement.goals import against, is_open
from initbench_core.measurement.timing import paired_times_ms
from initbench_core.networks.initializers import initialize_layers_
from initbench_core.networks.models import mlp
from initbench_core.presentation import speed
from initbench_core.training.data import Data, digits
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_together
from initbench_core.training.train import Recipe, train

TARGETS = {"cpu": 2.0, "cuda": 10.0}


def networks(seeds: int, width: int, depth: int) -> list[nn.Module]:
    """Build one network a seed."""
    models: list[nn.Module] = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), *mlp(784, width, depth, 10, norm="before"))
        initialize_layers_(model, "kaiming_normal")
        models.append(model)
    return models


def times_ms(
    setting: Setting, data: Data, *, seeds: int, width: int, depth: int, epochs: int, rounds: int, seconds: float
) -> np.ndarray:
    """Time both ways until their ratio is decided, or for some seconds.

    Args:
        setting: where they are trained.
        data: on what.
        seeds: networks.
        width: units of their hidden layers.
        depth: hidden layers.
        epochs: of each training.
        rounds: samples of each before the interval is looked at, and between.
        seconds: from when on no more rounds begin.

    Returns:
        Milliseconds one by one and together, [2, samples].
    """
    recipe = Recipe(epochs=epochs, lr=0.05, momentum=0.9, batch_size=128, record_every=10)

    def one_by_one() -> None:
        for seed, model in enumerate(networks(seeds, width, depth)):
            list(train(model, data, recipe, seed=seed, setting=setting))

    def together() -> None:
        train_together(networks(seeds, width, depth), data, recipe, seeds=range(seeds), setting=setting)

    until = time.perf_counter() + seconds
    times = np.empty((2, 0))
    while not times.size or (is_open(times[0], times[1], TARGETS[setting.device]) and time.perf_counter() < until):
        # Every training reads its losses back, so that the host's clock is right on CUDA too.
        times = np.hstack([times, paired_times_ms(one_by_one, together, rounds=rounds)])
    return times


def main(arguments: list[str] | None = None) -> int:
    """Run it; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each before an interval is looked at")
    parser.add_argument("--seconds", type=int, default=300, help="for all depths, after which the rest stays undecided")
    parser.add_argument("--epochs", type=int, default=10, help="of each training, of 25 steps")
    parser.add_argument("--seeds", type=int, default=10, help="networks that train together")
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--depth", type=int, nargs="+", default=[3, 8, 20])
    options = parser.parse_args(arguments)
    try:
        check_positive(options, "threads", "rounds", "seconds", "epochs", "seeds", "width", "depth")
        # Each network's hidden weights, their gradients and momenta; what a GPU cannot hold either.
        deepest = max(options.depth)
        weights = options.seeds * (784 + (deepest - 1) * options.width) * options.width
        check_fits(f"{options.seeds} networks of width {options.width} and depth {deepest}", 3 * 4 * weights)
        device = choose_device(options.device)
        data = digits()
    except UserError as error:
        print(f"checks.together: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    # As in the workers of a sweep.
    keep_freed_memory()
    print(
        f"torch {torch.__version__}, {device_name(device)}, {options.threads} threads, {options.seeds} seeds of width "
        f"{options.width}, {options.epochs} epochs; trials per second, at least {TARGETS[device]:g} times as many"
    )
    print(f"{'depth':>5} {'one by one':>10} {'together':>8} {'ratio':>19} {'rounds':>6}")
    ratios: list[np.ndarray] = []
    verdicts: list[str] = []
    for depth in options.depth:
        alone_ms, together_ms = times_ms(
            Setting(device=device),
            data,
            seeds=options.seeds,
            width=options.width,
            depth=depth,
            epochs=options.epochs,
            rounds=options.rounds,
            seconds=options.seconds / len(options.depth),
        )
        ratios.append(alone_ms / together_ms)
        found = speed.median(ratios[-1])
        verdicts.append(against(found.low, found.high, least=TARGETS[device]))
        rates = (options.seeds * 1e3 / np.median(ms) for ms in (alone_ms, together_ms))
        print("{:5} {:10.2f} {:8.2f}".format(depth, *rates), end=" ")
        print(f"{found.center:5.2f} [{found.low:.2f}, {found.high:.2f}] {len(alone_ms):6}  {verdicts[-1]}", flush=True)
    table = pd.DataFrame({"ratios": ratios, "speed-up": [np.median(r) for r in ratios]})
    print(f"geometric mean: {speed.mean_speedup(table):.2f}")
    return 0 if set(verdicts) == {"met"} else 1


if __name__ == "__main__":
    sys.exit(main())
