"""The lecture's MLP on colour images: BatchNorm and the initializer it meant.

Question: what do Kaiming's weights and BatchNorm each bring to Flatten, Linear(3072, 100), BatchNorm, ReLU,
Linear(100, 10)?

SGD at 1e-3 with momentum 0.9, batches of 64, ReduceLROnPlateau, checkpoints, per-channel normalization that is checked.
The lecture's comment says Glorot where its code calls `kaiming_uniform_`, with the ReLU's gain on the output layer too;
the weights it prints are within +-0.1, the default of nn.Linear, and not Kaiming's +-0.245: the print is older than the
call. Its scheduler has patience 10 and cannot act within its 5 epochs; here patience is 2. Its final accuracy is lost.

The images are CIFAR-10 where `--data-dir` has it, and otherwise a synthetic stand-in, named so in every record and
figure: it exercises the same code, and its accuracies say nothing about CIFAR-10.

Expected: every arm learns: with one hidden layer nothing can vanish or explode, so this network cannot show what the
lecture built it to show. What differs is the scale of the random features that the first layer starts from.
Source: He et al. 2015; Ioffe & Szegedy 2015.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from initbench_core.networks.initializers import initialize_layers_
from initbench_core.networks.models import mlp
from initbench_core.presentation import plots
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.statistics import interval, spread, verdict
from initbench_core.presentation.story import Claim, raises_or_lowers
from initbench_core.records.frame import per_trial, tidy
from initbench_core.records.schema import Emission, Measurement, Record
from initbench_core.training.data import Data, Split, described
from initbench_core.training.setting import Setting
from initbench_core.training.train import Recipe, train

ARMS = (
    ("kaiming_uniform", "before"),
    ("kaiming_uniform", "none"),
    ("torch_default", "before"),
    ("torch_default", "none"),
)


@dataclass(frozen=True)
class Config:
    """One training."""

    data: str
    init: str
    norm: str
    epochs: int
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Two initializers with and without BatchNorm; five epochs as in the lecture."""
    epochs = setting.pick(smoke=1, quick=5, full=20)
    for seed in range(setting.seeds):
        for init, norm in ARMS:
            yield Config(setting.data.cifar10(), init, norm, epochs, seed)


# The lecture's constants for CIFAR-10's 50,000 training images, scaled to [0, 1].
LECTURE_MEAN, LECTURE_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def normalized(data: Data) -> tuple[Data, torch.Tensor]:
    """Normalize per channel; return the data and what the training split's means and stds came out as, [2, 3].

    CIFAR-10 takes the lecture's constants, so that the check is one; the stand-in takes its own statistics.
    """
    if data.name == "cifar10":
        mean, std = (torch.tensor(c).view(1, 3, 1, 1) for c in (LECTURE_MEAN, LECTURE_STD))
    else:
        mean, std = (statistic(data.train.x.double()).float() for statistic in (_channel_mean, _channel_std))
    parts = (Split((part.x - mean) / std, part.y) for part in (data.train, data.validation, data.test))
    result = Data(data.name, *parts)
    check = result.train.x.double()
    return result, torch.stack([_channel_mean(check).flatten(), _channel_std(check).flatten()])


def _channel_mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(dim=(0, 2, 3), keepdim=True)


def _channel_std(x: torch.Tensor) -> torch.Tensor:
    return x.std(dim=(0, 2, 3), keepdim=True)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Normalize, check, train."""
    data, check = normalized(setting.data.load(config.data))
    yield Measurement("channel_mean", "1", check[0].tolist(), {"channel": [0, 1, 2]})
    yield Measurement("channel_std", "1", check[1].tolist(), {"channel": [0, 1, 2]})
    # Before BatchNorm a bias would have no effect; the lecture leaves it out, and so does every arm.
    model = nn.Sequential(nn.Flatten(), *mlp(3 * 32 * 32, 100, 1, 10, norm=config.norm, bias=False))
    initialize_layers_(model, config.init)
    recipe = Recipe(
        epochs=config.epochs,
        lr=1e-3,
        momentum=0.9,
        batch_size=64,
        plateau_patience=2,
        target=0.4,
        target_metric="validation_accuracy",
        record_every=10,
        keep_checkpoint=True,
    )
    yield from train(model, data, recipe, seed=config.seed, setting=setting)


def _name(init: str, norm: str) -> str:
    return f"{init}, " + ("BatchNorm" if norm == "before" else "no BatchNorm")


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per arm: mean and 95% interval over seeds."""
    rows = []
    for (data, init, norm), cell in per_trial(records).groupby(["data", "init", "norm"], sort=False):
        accuracy = interval(cell["test_accuracy"].to_numpy())
        rows.append(
            {
                "data": data,
                "arm": _name(str(init), str(norm)),
                "test accuracy": accuracy[0],
                "low": accuracy[1],
                "high": accuracy[2],
                "test loss (nats)": cell["test_loss"].mean(),
                "outcomes": ", ".join(sorted(set(cell["outcome"]))),
                "n": len(cell),
            }
        )
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Paired differences, and the check of the normalization."""
    frame = per_trial(records)
    accuracy = frame.pivot(index="seed", columns=["init", "norm"], values="test_accuracy")
    gains = {
        "BatchNorm (with Kaiming weights)": accuracy["kaiming_uniform", "before"] - accuracy["kaiming_uniform", "none"],
        "Kaiming over torch's default (with BatchNorm)": accuracy["kaiming_uniform", "before"]
        - accuracy["torch_default", "before"],
    }
    parts = [f"{name} {spread(gain, form='+.3f')}, {verdict(gain)}" for name, gain in gains.items()]
    yield Finding(
        f"Paired changes of the test accuracy on {described(frame['data'].iloc[0])}: {'; '.join(parts)}.", "curves"
    )
    checks = tidy(records)
    mean = checks[checks["metric"] == "channel_mean"]["value"].abs().max()
    std = (checks[checks["metric"] == "channel_std"]["value"] - 1).abs().max()
    source = "the lecture's constants" if frame["data"].iloc[0] == "cifar10" else "its own statistics"
    yield f"Normalized by {source}, the channel means are 0 within {mean:.0e} and the stds 1 within {std:.0e}."


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """Where nothing can vanish or explode, BatchNorm has nothing to mend."""
    frame = per_trial(records)
    accuracy = frame.pivot(index="seed", columns=["init", "norm"], values="test_accuracy")
    difference = (accuracy["kaiming_uniform", "before"] - accuracy["kaiming_uniform", "none"]).dropna()
    measured = interval(difference)
    data = described(frame["data"].iloc[0])
    sentence = (
        f"With one hidden layer BatchNorm {raises_or_lowers(measured)} the test accuracy on {data}: paired difference"
    )
    chapter = "batch_norm_adds" if measured.low > 0 else "batch_norm_does_not_help"
    yield Claim(chapter, sentence, measured, len(difference), form="+.3f")


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Loss and accuracy on the validation split by epoch."""
    frame = tidy(records)
    data = described(frame["data"].iloc[0])
    figure, axes = plots.panels(1, 2, title=f"One hidden layer on {data}, {frame['seed'].nunique()} seeds")
    for color, (init, norm) in zip(plots.CYCLE, ARMS, strict=False):
        arm = frame[(frame["init"] == init) & (frame["norm"] == norm)]
        for panel, metric in zip(axes, ("validation_loss", "validation_accuracy"), strict=True):
            plots.band(panel, arm[arm["metric"] == metric], "epoch", name=_name(init, norm), color=color)
    for panel in axes:
        panel.set_xticks(sorted(frame["epoch"].dropna().unique()))
    plots.label(axes[0], x="epoch", y="validation loss (nats)")
    plots.label(axes[1], x="epoch", y="validation accuracy (fraction)")
    axes[1].legend(loc="lower right")
    return {"curves": figure}
