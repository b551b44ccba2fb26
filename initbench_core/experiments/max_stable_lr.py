"""Largest learning rate that still learns, by initializer, BatchNorm and depth.

Question: how far may the learning rate rise before a short training fails, and how much room does BatchNorm add?

MLPs of width 100 with ReLU on digits, plain SGD, batches of 32. A rate works if after one epoch (100 steps on the 5,000
digits) the training has neither diverged nor stalled, by the suite's own definitions: its loss is finite and 1% better
than the constant predictor's. The search descends from 16 by factors of 4 to the first rate that works and bisects the
logarithm from there, to half an octave, a factor of 1.4 (a quarter in the full profile): no interval can be finer. It
starts from above because the rates that work form an interval: far below it a training is stable but learns nothing. A
configuration in which no rate works counts as the lowest rate tried, and every ratio to it is told as a bound.

Expected: BatchNorm before the ReLU adds a decade or more, and most where there is depth: without it the largest rate
falls with depth, with it it hardly moves. With BatchNorm the loss does not depend on the scale of the weights, and
their gradients shrink as they grow, so that a large first step lowers the effective rate of the next ones. Torch's
default weights at depth 20 learn at no rate without BatchNorm.
Source: Ioffe & Szegedy 2015, section 3.3; Bjorck et al. 2018, "Understanding batch normalization".
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from initbench_core.networks.models import NORM_PLACES, mlp
from initbench_core.presentation import plots
from initbench_core.presentation.censored import Ratio, censored_ratio
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.signs import signs
from initbench_core.presentation.statistics import interval
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import per_trial
from initbench_core.records.schema import Emission, Measurement, Outcome, Record, scalar
from initbench_core.training.data import Data, described
from initbench_core.training.probing import look
from initbench_core.training.rate_search import search_rate
from initbench_core.training.seeding import initialize_for_, seeded
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_together
from initbench_core.training.train import Recipe

INITS = ("torch_default", "xavier_normal", "kaiming_normal")
# log2 of the rates between which the search goes down.
HIGHEST, LOWEST, STRIDE = 4.0, -12.0, 2.0
# What is recorded of the training at each rate; one that neither works nor diverges stalls.
BY_RATE = {"works": "1", "diverges": "1", "samples_per_second": "samples/s"}
NAMES = {"none": "no BatchNorm", "before": "BatchNorm before ReLU", "after": "BatchNorm after ReLU"}


@dataclass(frozen=True)
class Config:
    """One search."""

    data: str
    init: str
    norm: str
    depth: int  # hidden layers
    width: int
    epochs: int  # of each training of the search
    resolution: float  # of the search, in log2
    seed: int


def grid(setting: Setting) -> Iterator[Config]:
    """Every initializer with every place of BatchNorm, shallow and deep."""
    depths = setting.pick(smoke=(2,), quick=(3, 20), full=(2, 3, 5, 10, 20, 50))
    width, epochs, resolution = setting.pick(smoke=(16, 1, 2.0), quick=(100, 1, 0.5), full=(100, 4, 0.25))
    for seed, depth, init, norm in itertools.product(range(setting.seeds), depths, INITS, NORM_PLACES):
        yield Config(setting.data.images(), init, norm, depth, width, epochs, resolution, seed)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Search for one seed."""
    (emissions,) = run_together([config], setting)
    yield from emissions


def run_together(configs: Sequence[Config], setting: Setting) -> list[list[Emission]]:
    """Look at the networks, then search side by side: those that ask for the same rate train together."""
    first = configs[0]
    data = setting.data.load(first.data)
    models = [seeded(_network, config, setting, data.train.x[0].numel()) for config in configs]
    looks = look(models, data, _recipe(first, 2**HIGHEST), norm=first.norm)
    limits = {"highest": HIGHEST, "lowest": LOWEST, "stride": STRIDE, "resolution": first.resolution}
    searches = [search_rate(**limits) for _ in configs]
    asked = {i: next(search) for i, search in enumerate(searches)}
    tried: list[dict[float, list[float]]] = [{} for _ in configs]
    found = [math.nan] * len(configs)
    while asked:
        rate = max(asked.values())
        chosen = [i for i, wanted in asked.items() if wanted == rate]
        for i, trained in zip(chosen, _train([configs[i] for i in chosen], 2**rate, data, setting), strict=True):
            tried[i][rate] = trained
            try:
                asked[i] = searches[i].send(bool(trained[0]))
            except StopIteration as end:
                found[i] = end.value
                del asked[i]
    return [
        [
            *seen,
            scalar("largest_rate", "1", 2**rate),
            *(
                Measurement(metric, unit, list(values), {"log2_rate": list(of_seed)})
                for (metric, unit), values in zip(BY_RATE.items(), zip(*of_seed.values(), strict=True), strict=True)
            ),
        ]
        for seen, rate, of_seed in zip(looks, found, tried, strict=True)
    ]


def _train(configs: Sequence[Config], rate: float, data: Data, setting: Setting) -> list[list[float]]:
    """Train each for a short while; return what there is of `BY_RATE`."""
    recipe = _recipe(configs[0], rate)
    models = [seeded(_network, config, setting, data.train.x[0].numel()) for config in configs]
    trained = train_together(models, data, recipe, seeds=[config.seed for config in configs], setting=setting)
    rows = []
    for emissions in trained:
        outcome = next(e.name for e in emissions if isinstance(e, Outcome))
        speeds = [e.values[0] for e in emissions if isinstance(e, Measurement) and e.metric == "samples_per_second"]
        rows.append([float(outcome not in ("stalled", "diverged")), float(outcome == "diverged"), *speeds])
    return rows


def _recipe(config: Config, rate: float) -> Recipe:
    return Recipe(config.epochs, lr=rate, batch_size=32, record_every=1000, evaluate_every=config.epochs)


def _network(config: Config, setting: Setting, inputs: int) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), *mlp(inputs, config.width, config.depth, 10, norm=config.norm))
    initialize_for_(setting, model, config.init, seed=config.seed)
    return model


def _rates(records: Sequence[Record]) -> pd.DataFrame:
    """A row per seed, a column per (depth, init, norm); 0 where no rate works, inf where the highest one does."""
    frame = per_trial(records)
    frame["largest_rate"] = frame["largest_rate"].replace(2**HIGHEST, math.inf)
    return frame.pivot(index="seed", columns=["depth", "init", "norm"], values="largest_rate")


def _counted(rates: pd.DataFrame) -> pd.DataFrame:
    """Let a rate beyond those searched count as the last one that was."""
    return rates.clip(2**LOWEST, 2**HIGHEST)


def _ratio(a: pd.Series, b: pd.Series) -> Ratio:
    return censored_ratio(a, b, lowest=2**LOWEST, highest=2**HIGHEST)


def _gain(rates: pd.DataFrame, depth: int, init: str, norm: str) -> Ratio:
    """Return how many times the rate without BatchNorm the one with it is."""
    return _ratio(rates[depth, init, norm], rates[depth, init, "none"])


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per configuration: the rate (geometric mean), and its paired ratio to no BatchNorm."""
    rates, seen = _rates(records), signs(records, "depth", "init", "norm")
    counted, rows = _counted(rates), []
    depths = sorted(set(rates.columns.get_level_values("depth")))
    for depth, init, norm in itertools.product(depths, INITS, NORM_PLACES):
        rate = interval(counted[depth, init, norm], log=True)
        gain = _gain(rates, depth, init, norm)
        rows.append(
            {
                "hidden layers": depth,
                "init": init,
                "BatchNorm": norm,
                f"largest rate (none: {2**LOWEST:.2g})": rate.center,
                "low": rate.low,
                "high": rate.high,
                "some rate works": f"{(rates[depth, init, norm] > 0).sum()} of {len(rates)}",
                "times no BatchNorm": "-" if norm == "none" else f"{gain:.3g}",
                "separated": "-" if norm == "none" else gain.separated,
                "n": len(rates),
            }
            | seen[depth, init, norm]
        )
    return pd.DataFrame(rows)


def findings(records: Sequence[Record]) -> Iterator[str]:
    """What BatchNorm gains at each depth, and what depth costs."""
    rates = _rates(records)
    depths = sorted(set(rates.columns.get_level_values("depth")))
    data = described(str(records[0].config["data"]))
    factors = [f"{_gain(rates, depth, 'kaiming_normal', 'before'):.3g} at {depth}" for depth in reversed(depths)]
    yield Finding(
        f"With Kaiming's weights BatchNorm before the ReLU multiplies the largest learning rate that learns on {data} "
        f"by {', '.join(factors)} hidden layers; n = {len(rates)} pairs.",
        "rates",
    )
    for depth in reversed(depths):
        parts = []
        for init in INITS:
            gain = _gain(rates, depth, init, "before")
            decades = gain._replace(center=math.log10(gain.center)).brief(".1f")
            parts.append(f"{gain:.3g} for {init}" + (f" ({decades} decades)" if gain.separated == "yes" else ""))
        yield (
            f"At {depth} hidden layers BatchNorm before the ReLU multiplies the largest learning rate that learns on "
            f"{data} by {', '.join(parts)}; n = {len(rates)} paired seeds."
        )
    shallow, deep = depths[0], depths[-1]
    for norm, name in NAMES.items():
        change = _ratio(rates[deep, "kaiming_normal", norm], rates[shallow, "kaiming_normal", norm])
        yield (
            f"Kaiming's weights, {name}: the largest rate at {deep} hidden layers over that at {shallow}: {change:.3g}."
        )


def claims(records: Sequence[Record]) -> Iterator[Claim]:
    """The room that BatchNorm adds at the greatest depth."""
    rates = _rates(records)
    depth = max(rates.columns.get_level_values("depth"))
    data = described(str(records[0].config["data"]))
    gain = _gain(rates, depth, "kaiming_normal", "before")
    yield Claim(
        "batch_norm_adds" if gain.is_above else "batch_norm_does_not_help",
        f"At {depth} layers with Kaiming's weights BatchNorm multiplies the largest learning rate that learns on "
        f"{data} by this factor",
        gain,
        len(rates),
        "a decade or more (Bjorck et al. 2018)",
    )


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """The largest rate of every configuration: mean and interval over seeds, and each seed."""
    rates = _rates(records)
    depths = sorted(set(rates.columns.get_level_values("depth")))
    data = described(str(records[0].config["data"]))
    figure, axes = plots.panels(
        1, len(depths), title=f"Largest learning rate that learns: {data}, {len(rates)} seeds",
        width=max(9.0, 3.2 * len(depths)), height=3.4, sharey=True, sharex=True, squeeze=False,
    )  # fmt: skip
    counted, left = _counted(rates), float(rates.where(rates > 0).min().min()) / 8
    for panel, depth in zip(axes[0], depths, strict=True):
        for k, (norm, name) in enumerate(NAMES.items()):
            at = np.arange(len(INITS)) + 0.22 * (k - 1)
            rows = [interval(counted[depth, init, norm], log=True) for init in INITS]
            center, low, high = (np.array(column) for column in zip(*rows, strict=True))
            ends = np.nan_to_num(np.abs(np.stack([center - low, high - center])))
            panel.errorbar(center, at, xerr=ends, fmt="o", ms=7, capsize=3, color=plots.CYCLE[k], label=name)
            for y, init in zip(at, INITS, strict=True):
                missed = int((rates[depth, init, norm] == 0).sum())
                if missed:
                    text = f"no rate works for {missed} of {len(rates)}"
                    panel.plot([left], [y], "<", color=plots.CYCLE[k], ms=7, clip_on=False)
                    panel.annotate(text, (left, y), xytext=(9, -3), textcoords="offset points", fontsize=9)
        panel.set(xscale="log", xlim=(left, 2 ** (HIGHEST + 0.5)), ylim=(len(INITS) - 0.5, -0.5))
        plots.log_ticks(panel.xaxis)
        panel.set_yticks(range(len(INITS)), INITS)
        panel.set_title(f"{depth} hidden layers")
    figure.supxlabel("learning rate (geometric mean, 95% interval over seeds)", fontsize=10)
    axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return {"rates": figure}
