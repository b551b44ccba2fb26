"""Glorot & Bengio's table 1: standard against normalized weights for saturating activations.

Question: are normalized weights better than those that were standard in 2010, and for which activation?

Networks of five hidden layers of tanh, softsign or sigmoid, weights "standard" U(+-1/sqrt(fan_in)) or "normalized"
(Xavier's U(+-sqrt(6 / (fan_in + fan_out)))), biases 0, batches of 10, and of several rates the one with the best mean
validation accuracy; scored on test images that chose nothing. The target is a validation accuracy of 85%. Theirs had
1,000 units a layer (here 100), 50,000 training images and days: an order can be met here, digits cannot.

Expected: normalized weights are ahead of standard ones for tanh, about equal for softsign; sigmoid is last.
Source: Glorot & Bengio 2010, table 1.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from initbench_core.errors import choose
from initbench_core.networks.models import mlp
from initbench_core.presentation import plots
from initbench_core.presentation.signs import signs
from initbench_core.presentation.statistics import interval, spread, verdict
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import per_trial
from initbench_core.records.schema import Emission, Record
from initbench_core.training.data import Data, described
from initbench_core.training.probing import look
from initbench_core.training.recipe import Recipe
from initbench_core.training.seeding import initialize_for_
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_cell
from initbench_core.training.train import train

TARGET = 0.85
SCHEMES = {"standard": "torch_default", "normalized": "xavier_uniform"}
# Test error in percent on Shapeset and MNIST (Glorot & Bengio, table 1).
PUBLISHED = {
    ("softsign", "standard"): (16.27, 1.64),
    ("softsign", "normalized"): (16.06, 1.72),
    ("tanh", "standard"): (27.15, 1.76),
    ("tanh", "normalized"): (15.60, 1.64),
    ("sigmoid", "standard"): (82.61, 2.21),
}


@dataclass(frozen=True)
class Config:
    """One training."""

    data: str
    activation: str
    init: str  # a key of SCHEMES
    batch: int
    epochs: int
    lr: float
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """The five columns at each rate."""
    batch, epochs = setting.pick(smoke=(100, 1), quick=(10, 3), full=(10, 30))
    rates = setting.pick(smoke=(0.1,), quick=(0.05, 0.2), full=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5))
    for activation, init in PUBLISHED:
        for lr in rates:
            for seed in range(setting.seeds):
                yield Config(setting.data.images(), activation, init, batch, epochs, lr, seed)


def prepare(config: Config, setting: Setting) -> tuple[nn.Module, Data, Recipe]:
    """Return the network with its weights, the images and the recipe."""
    model = nn.Sequential(nn.Flatten(), *mlp(784, 100, 5, 10, activation=config.activation))
    scheme = choose("initializer", config.init, SCHEMES)
    initialize_for_(setting, model, scheme, seed=config.seed, nonlinearity="linear")
    # torch's default draws the biases too.
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    recipe = Recipe(epochs=config.epochs, lr=config.lr, batch_size=config.batch, record_every=20, target=TARGET,
                    target_metric="validation_accuracy", model_metrics=("update_ratio",))  # fmt: skip
    return model, setting.data.load(config.data), recipe


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Look at one network, then train it."""
    model, data, recipe = prepare(config, setting)
    yield from look([model], data, recipe, norm="none")[0]
    yield from train(model, data, recipe, seed=config.seed, setting=setting)


def run_together(configs: Sequence[Config], setting: Setting) -> Sequence[Iterable[Emission]]:
    """Look at all seeds of a column, then train them at one rate."""
    return train_cell(prepare, configs, setting, partial(look, norm="none"))


def _columns(records: Sequence[Record]) -> dict[tuple[str, str], pd.DataFrame]:
    """The trials by column, each at its best rate on the validation images, by seed."""
    frame = per_trial(records).set_index("seed").sort_index()
    found = {}
    for activation, init in PUBLISHED:
        column = frame[(frame["activation"] == activation) & (frame["init"] == init)]
        best = (
            column.fillna({"best_validation_accuracy": 0.0}).groupby("lr")["best_validation_accuracy"].mean().idxmax()
        )
        chosen = column[column["lr"] == best]
        found[activation, init] = chosen.assign(error=100 * (1 - chosen["test_accuracy"]))
    return found


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per column, measured and published, and whether its weights are told from the other ones."""
    rows, columns, seen = [], _columns(records), signs(records, "activation", "init", "lr")
    for (activation, init), cell in columns.items():
        other = columns.get((activation, "standard" if init == "normalized" else "normalized"))
        shapeset, mnist = PUBLISHED[activation, init]
        rows.append(
            {
                "activation": activation,
                "weights": init,
                "rate": cell["lr"].iloc[0],
                "n": len(cell),
                "test error (%)": f"{interval(cell['error']):.1f}",
                "against the other weights": "-" if other is None else verdict(cell["error"] - other["error"]),
                "published, MNIST (%)": mnist,
                "published, Shapeset (%)": shapeset,
            }
            | seen[activation, init, cell["lr"].iloc[0]]
        )
    return pd.DataFrame(rows)


def _pairs(records: Sequence[Record]) -> dict[str, list[str]]:
    """Sort the pairs of columns whose published MNIST errors differ by what the paired difference says of the order."""
    columns = _columns(records)
    answers: dict[str, list[str]] = {"confirmed": [], "reversed": [], "not decided": []}
    for one, other in combinations(sorted(PUBLISHED, key=lambda column: PUBLISHED[column][1]), 2):
        if PUBLISHED[one][1] == PUBLISHED[other][1]:
            continue
        difference = interval(columns[other]["error"] - columns[one]["error"])
        answer = "confirmed" if difference.low > 0 else "reversed" if difference.high < 0 else "not decided"
        answers[answer].append(f"{' '.join(one)} < {' '.join(other)}")
    return answers


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Normalized against standard weights, and the published order."""
    columns, data = _columns(records), described(str(records[0].config["data"]))
    parts = []
    for activation in ("tanh", "softsign"):
        gain = columns[activation, "standard"]["error"] - columns[activation, "normalized"]["error"]
        published = PUBLISHED[activation, "standard"][1] - PUBLISHED[activation, "normalized"][1]
        parts.append(f"{activation} {spread(gain, form='+.1f')}, {verdict(gain)} (published, MNIST: {published:+.2f})")
    yield (
        f"Test error on {data}, standard minus normalized weights, paired, in percentage points: {'; '.join(parts)}."
    )
    order = sorted(columns.items(), key=lambda pair: -pair[1]["test_accuracy"].fillna(0).mean())
    pairs = _pairs(records)
    yield (
        "Best first: "
        + ", ".join(f"{' '.join(c)} {spread(cell['error'], form='.1f')}" for c, cell in order)
        + f". Of the published order of pairs {len(pairs['confirmed'])} are confirmed, {len(pairs['reversed'])} "
        f"reversed ({', '.join(pairs['reversed']) or 'none'}), {len(pairs['not decided'])} not decided "
        f"({', '.join(pairs['not decided']) or 'none'})."
    )


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """What normalized weights do for tanh."""
    columns, data = _columns(records), described(str(records[0].config["data"]))
    standard, normalized = (columns["tanh", init]["error"] for init in SCHEMES)
    yield Claim(
        "initialization",
        f"5 tanh layers on {data}: test error, standard minus normalized weights, in percentage points",
        interval(standard - normalized),
        len(standard),
        "0.12 on MNIST, 11.6 on Shapeset: Glorot & Bengio 2010, table 1",
        "+.2f",
    )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Measured errors beside the published ones."""
    columns = _columns(records)
    seeds = max(len(cell) for cell in columns.values())
    title = f"Standard and normalized weights: {described(str(records[0].config['data']))}, {seeds} seeds"
    figure, axes = plots.panels(1, 2, title=title, width=9.0, height=3.8)
    at, names = range(len(columns)), [f"{a}\n{i}" for a, i in columns]
    plots.points(axes[0], at, [interval(c["error"]) for c in columns.values()], name="", color=plots.CYCLE[0])
    for color, marker, name, k in ((plots.CYCLE[1], "s", "Shapeset", 0), (plots.CYCLE[2], "^", "MNIST", 1)):
        errors = [(PUBLISHED[c][k], np.nan, np.nan) for c in columns]
        plots.points(axes[1], at, errors, name=name, color=color, marker=marker)
    titles = ("measured, 5 layers of 100, 95%", "published: table 1, 5 layers of 1,000")
    for panel, lowest, text in zip(axes, (5, 1), titles, strict=True):
        panel.set_xticks(at, names, fontsize=8)
        panel.set_yscale("log")
        plots.log_ticks(panel.yaxis, [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick >= lowest])
        plots.label(panel, x="", y="test error (%)", title=text)
    axes[1].legend(loc="upper left")
    return {"columns": figure}
