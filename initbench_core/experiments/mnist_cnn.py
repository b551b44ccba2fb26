"""A small CNN on digits: BatchNorm by hand, native, none; before and after the ReLU.

Question: what does batch normalization change in the lecture's CNN, does a hand-written one equal torch's, and does its
place matter?

conv5-10, pool, ReLU, dropout, conv5-20, pool, ReLU, dropout, 320-50-10; SGD at 0.01, weight decay 1e-4, batches of
64, 80/20 split, early stopping. The lecture's run reached a validation loss of 0.037 on full MNIST; it has no control
arm without BatchNorm and no test set. Its early stopping restored nothing: `best = model.state_dict()` shares its
tensors with the model and follows the training. Its log shows patience 3 and 50 epochs where its code says 20 and 100.
Its text puts BatchNorm "after each convolution", its code after the ReLU. Its hand-written BatchNorm kept the running
statistics out of the state_dict and inside the autograd graph, with a biased variance. All are right here.

Expected: on 5,000 digits (3,200 to train on, 800 to validate, 1,000 to test) the loss after 10 epochs is several times
lower with BatchNorm than without; hand-written and native agree within 0.01.
Source: Ioffe & Szegedy 2015.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from initbench_core.networks.models import cnn
from initbench_core.presentation import plots
from initbench_core.presentation.statistics import bootstrap_ratio, interval, is_parity, spread, verdict
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import per_trial, tidy
from initbench_core.records.schema import Emission, Record
from initbench_core.training.data import described
from initbench_core.training.setting import Setting
from initbench_core.training.train import Recipe, train

ARMS = (
    ("none", "native"),
    ("after", "native"),
    ("after", "handwritten"),
    ("before", "native"),
    ("before", "handwritten"),
)


@dataclass(frozen=True)
class Config:
    """One training."""

    data: str
    norm: str  # place of BatchNorm: none, before or after the ReLU
    implementation: str
    epochs: int
    patience: int
    dropout: float
    weight_decay: float
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Five arms per seed; with dropout and weight decay as in the lecture, and in the full profile without them."""
    epochs = setting.pick(smoke=1, quick=10, full=50)
    regularizations = setting.pick(
        smoke=((0.5, 1e-4),), quick=((0.5, 1e-4),), full=((0.5, 1e-4), (0.0, 1e-4), (0.5, 0.0))
    )
    for seed in range(setting.seeds):
        for dropout, weight_decay in regularizations:
            for norm, implementation in ARMS:
                yield Config(setting.data.mnist(), norm, implementation, epochs, 3, dropout, weight_decay, seed)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Train one network; the same seed gives every arm the same weights and batches."""
    model = cnn(norm=config.norm, implementation=config.implementation, dropout=config.dropout)
    recipe = Recipe(
        epochs=config.epochs,
        lr=0.01,
        batch_size=64,
        weight_decay=config.weight_decay,
        early_stopping=config.patience,
        target=0.9,
        target_metric="validation_accuracy",
        record_every=10,
        keep_checkpoint=True,
    )
    yield from train(model, setting.data.load(config.data), recipe, seed=config.seed, setting=setting)


def _name(norm: str, implementation: str) -> str:
    return "no BatchNorm" if norm == "none" else f"{implementation}, {norm} ReLU"


def _arms(records: Sequence[Record]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The arms of the lecture's regularization, by name."""
    frame = per_trial(records)
    frame = frame[(frame["dropout"] == 0.5) & (frame["weight_decay"] == 1e-4)]
    for norm, implementation in ARMS:
        yield (
            _name(norm, implementation),
            frame[(frame["norm"] == norm) & (frame["implementation"] == implementation)].sort_values("seed"),
        )


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per arm and regularization: mean and 95% interval over seeds."""
    rows = []
    keys = ["data", "norm", "implementation", "dropout", "weight_decay"]
    for (data, norm, implementation, dropout, decay), cell in per_trial(records).groupby(keys, sort=False):
        loss = interval(cell["best_validation_loss"].to_numpy())
        accuracy = interval(cell["test_accuracy"].to_numpy())
        rows.append(
            {
                "data": data,
                "arm": _name(str(norm), str(implementation)),
                "dropout": dropout,
                "weight decay": decay,
                "validation loss (nats)": loss[0],
                "low": loss[1],
                "high": loss[2],
                "test accuracy": accuracy[0],
                "low ": accuracy[1],
                "high ": accuracy[2],
                "n": len(cell),
            }
        )
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """The control arm, the two implementations, the two places."""
    arms = dict(_arms(records))
    loss = {name: cell["best_validation_loss"].to_numpy() for name, cell in arms.items()}
    control, after = loss["no BatchNorm"], loss["native, after ReLU"]
    epochs, data = records[0].config["epochs"], described(str(records[0].config["data"]))
    yield (
        f"After at most {epochs} epochs on {data} the validation loss is {spread(control)} without BatchNorm, the "
        f"control arm that the lecture lacked, and {spread(after)} with it after the ReLU."
    )
    by_hand = abs(loss["handwritten, after ReLU"] - after).max()
    yield f"Hand-written and native BatchNorm differ by at most {by_hand:.4f} in the loss of the same seed."
    difference = loss["native, before ReLU"] - after
    yield f"BatchNorm before the ReLU minus after it, paired: {spread(difference, form='+.3f')}; {verdict(difference)}."


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """What BatchNorm adds to the lecture's CNN, and whether its place matters."""
    loss = {name: cell["best_validation_loss"].to_numpy() for name, cell in _arms(records)}
    where = f"a small CNN on {described(str(records[0].config['data']))}: paired ratio of the validation losses"
    for name, other, what in (
        ("native, after ReLU", "no BatchNorm", "BatchNorm against none in the same epochs"),
        ("native, before ReLU", "native, after ReLU", "BatchNorm before the ReLU against after it"),
    ):
        ratio = bootstrap_ratio(loss[name], loss[other])
        # A lower loss than without it, or a place that matters.
        adds = ratio.high < 1 if other == "no BatchNorm" else not is_parity(ratio)
        chapter = "batch_norm_adds" if adds else "batch_norm_does_not_help"
        yield Claim(chapter, f"{what}, {where}", ratio, len(loss[name]), is_ratio=True)


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Learning curves of training and validation."""
    frame = tidy(records)
    frame = frame[(frame["dropout"] == 0.5) & (frame["weight_decay"] == 1e-4)]
    batches = frame[frame["metric"] == "train_loss"]["step"].max() / frame["epoch"].max()
    data, seeds = described(frame["data"].iloc[0]), frame["seed"].nunique()
    figure, axes = plots.panels(
        1, 2, title=f"The lecture's CNN, by place of BatchNorm: {data}, {seeds} seeds", height=4.0, sharey=True
    )
    for color, (norm, implementation) in zip(plots.CYCLE, ARMS, strict=False):
        arm = frame[(frame["norm"] == norm) & (frame["implementation"] == implementation)]
        dashes = "--" if implementation == "handwritten" else "-"
        train_loss = arm[arm["metric"] == "train_loss"]
        train_loss = train_loss.assign(epoch=np.ceil(train_loss["step"] / batches))
        means = train_loss.groupby(["seed", "epoch"])["value"].mean().reset_index()
        name = _name(norm, implementation)
        plots.band(axes[0], means, "epoch", name=name, log=True, color=color, ls=dashes)
        validation = arm[arm["metric"] == "validation_loss"]
        plots.band(axes[1], validation, "epoch", name=name, log=True, color=color, ls=dashes)
    axes[0].set_yscale("log")
    plots.log_ticks(axes[0].yaxis)
    plots.label(axes[0], x="epoch", y="loss (nats)", title="training, with dropout")
    plots.label(axes[1], x="epoch", y="", title="validation, without dropout")
    axes[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return {"curves": figure}
