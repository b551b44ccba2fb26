"""How much faster do the seeds of a cell train together than one by one?

    python -m initbench_core.checks.together [--device cuda] [--threads 2]

Trains MLPs of width 100 and depth 3 with BatchNorm on the 5,000 digits in batches of 128, 10 seeds, both ways in turns,
and prints trials per second and their ratio: the median over rounds with a 95% bootstrap interval. The target (2 times
on a CPU, 10 times on CUDA) is met where the whole interval reaches it, missed where none of it does, and otherwise
undecided: more rounds or idler cores may tell. Exit status: 0 met, 1 missed or undecided, 2 an argument is wrong.
"""

import argparse
import sys

import torch
from torch import nn

from initbench_core.checks.arguments import check_fits, check_positive
from initbench_core.environment import choose_device, device_name
from initbench_core.errors import UserError
from initbench_core.measurement.goals import against
from initbench_core.measurement.timing import Estimate, estimate, paired_times_ms
from initbench_core.networks.initializers import initialize_layers_
from initbench_core.networks.models import mlp
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


def measure(setting: Setting, data: Data, *, seeds: int, width: int, depth: int, epochs: int, rounds: int) -> Estimate:
    """Print trials per second of both ways; return the ratio (above 1: together is faster)."""
    recipe = Recipe(epochs=epochs, lr=0.05, momentum=0.9, batch_size=128, record_every=10)

    def one_by_one() -> None:
        for seed, model in enumerate(networks(seeds, width, depth)):
            list(train(model, data, recipe, seed=seed, setting=setting))

    def together() -> None:
        train_together(networks(seeds, width, depth), data, recipe, seeds=range(seeds), setting=setting)

    # Every training reads its losses back, so that the host's clock is right on CUDA too.
    alone_ms, together_ms = paired_times_ms(one_by_one, together, rounds=rounds)
    for name, times in (("one by one", alone_ms), ("together", together_ms)):
        print(f"{name:>10}: {estimate(seeds * 1e3 / times).median:8.2f} trials/s")
    return estimate(alone_ms / together_ms)


def main(arguments: list[str] | None = None) -> int:
    """Run it; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=20, help="samples of each")
    parser.add_argument("--epochs", type=int, default=3, help="of each training")
    parser.add_argument("--seeds", type=int, default=10, help="networks that train together")
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--depth", type=int, default=3)
    options = parser.parse_args(arguments)
    try:
        check_positive(options, "threads", "rounds", "epochs", "seeds", "width", "depth")
        # Each network's hidden weights, their gradients and momenta; what a GPU cannot hold either.
        weights = options.seeds * (784 + (options.depth - 1) * options.width) * options.width
        check_fits(f"{options.seeds} networks of width {options.width} and depth {options.depth}", 3 * 4 * weights)
        device = choose_device(options.device)
        data = digits()
    except UserError as error:
        print(f"checks.together: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {device_name(device)}, {options.threads} threads, {options.seeds} seeds of width "
        f"{options.width} and depth {options.depth}, {options.epochs} epochs, {options.rounds} rounds"
    )
    ratio = measure(
        Setting(device=device),
        data,
        seeds=options.seeds,
        width=options.width,
        depth=options.depth,
        epochs=options.epochs,
        rounds=options.rounds,
    )
    target = TARGETS[device]
    verdict = against(ratio.low, ratio.high, least=target)
    print(f"     ratio: {ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], target {target:g}: {verdict}")
    return 0 if verdict == "met" else 1


if __name__ == "__main__":
    sys.exit(main())
