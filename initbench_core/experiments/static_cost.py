"""Static cost: what the compiler makes of every kernel, and the bytes that it moves.

Question: what can be known of the kernels' speed without a GPU? Every row of the tuning tables is compiled for devices
that need not be there, and registers, spills, shared memory and the width of accesses are read from the binary.
Launches and bytes per element of whole passes are counted under Triton's interpreter: what kernels ask for, each
element and access once, as if nothing were cached.

A spill, a narrower access or one more pass over the data costs time on any device, and shows here before a clock sees
it. The numbers have no noise: `initbench compare` reports any change of one. They depend on the version of Triton and
not on the machine. `quick` compiles what is hardest on registers and alignment for sm_90, `full` everything.

Expected: no spills; at most 128 registers a thread; accesses as wide as the alignment permits; in bfloat16 4 bytes an
element in evaluation, 6 forward in training and 10 backward, each a few percent more for what is of a channel's size.
Source: this project's own.
"""

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from initbench_core.errors import check_choice, choose
from initbench_core.measurement.static_cost import OPERATORS, TARGETS, builds, cost_of, traffic_records
from initbench_core.presentation import plots
from initbench_core.presentation.finding import Finding
from initbench_core.records.frame import per_trial, tidy
from initbench_core.records.schema import Emission, Measurement, Note, Record, scalar
from initbench_core.training.setting import Setting

# In the place of a target: nothing is compiled, launches and bytes are counted.
INTERPRETER = "interpreter"
# The operators by the name of their package: the runs of each are counted in a process of their own.
COUNTED = {module.split(".")[1]: module for module in OPERATORS}
QUICK = r"(stats|normalize_train|reduce_train|dx)-(rows_64|rows_411_unaligned|planes_7x7)-bf16|random_fill"
MISSING = "Triton is not installed (it is for Linux): nothing was compiled or counted."


@dataclass(frozen=True)
class Config:
    """One build for one target, or the runs of one operator under the interpreter."""

    name: str
    target: str


def grid(setting: Setting) -> Iterator[Config]:
    """Builds by target, and what is counted; it has no noise, so no seeds."""
    pattern: str = setting.pick(smoke="stats-rows_64-bf16", quick=QUICK, full=".*")
    targets: Sequence[str] = setting.pick(smoke=("sm_90",), quick=("sm_90",), full=tuple(TARGETS))
    for operator in setting.pick(smoke=["random_fill"], quick=list(COUNTED), full=list(COUNTED)):
        yield Config(operator, INTERPRETER)
    if _has_triton():
        names = [build.name for build in builds() if re.fullmatch(pattern, build.name)]
        yield from (Config(name, target) for target in targets for name in names)


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Compile and read, or interpret and count."""
    if not _has_triton():
        yield Note(MISSING)
    elif config.target == INTERPRETER:
        found = traffic_records(operators=[choose("operator", config.name, COUNTED)])
        at = {"run": [record["name"] for record in found]}
        yield Measurement("launches", "1", [record["launches"] for record in found], at)
        yield Measurement("bytes_per_element", "bytes", [record["bytes_per_element"] for record in found], at)
    else:
        check_choice("target", config.target, TARGETS)
        build = choose("build", config.name, {build.name: build for build in builds()})
        cost = cost_of(build, config.target)
        yield scalar("registers", "per thread", cost.registers)
        yield scalar("spill_bytes", "bytes per thread", cost.spill_bytes)
        yield scalar("shared_bytes", "bytes per program", cost.shared_bytes)
        yield scalar("accesses", "instructions", cost.accesses)
        yield scalar("access_bits", "bits", cost.access_bits)
        yield scalar("tile_access_bits", "bits", cost.tile_access_bits)


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _built(records: Sequence[Record]) -> pd.DataFrame:
    """Return a row per build and target; its kind is what its name begins with."""
    compiled = [r for r in records if r.config["target"] != INTERPRETER]
    frame = per_trial(compiled)
    return frame.assign(kind=frame["name"].str.partition("-")[0]).sort_values("name") if compiled else frame


def _counted(records: Sequence[Record]) -> pd.DataFrame:
    """Return a row per run that was counted, with the metrics as columns."""
    interpreted = [r for r in records if r.config["target"] == INTERPRETER and r.measurements]
    if not interpreted:
        return pd.DataFrame()
    frame = tidy(interpreted).pivot_table("value", "run", "metric").reset_index()
    return frame.assign(kind=frame["run"].str.partition("-")[0])


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per kind of kernel and target, the dearest of its builds in every column; a row per run that is counted.

    Each build by itself is in the records.
    """
    rows = []
    built, counted = _built(records), _counted(records)
    for (name, target), part in built.groupby(["kind", "target"], sort=False) if len(built) else ():
        rows.append(
            {
                "kernel or run": name,
                "target": target,
                "builds": len(part),
                "registers": int(part["registers"].max()),
                "spilled bytes": int(part["spill_bytes"].max()),
                "shared bytes": int(part["shared_bytes"].max()),
                "accesses": int(part["accesses"].max()),
                "narrowest access, bits": int(part["access_bits"].min()),
                "narrower than they could be": len(_narrow(part)),
            }
        )
    for found in counted.to_dict("records"):
        counts = {"launches": int(found["launches"]), "bytes per element": found["bytes_per_element"]}
        rows.append({"kernel or run": found["run"], "target": INTERPRETER, **counts})
    # Whole numbers stay whole beside what is missing.
    return pd.DataFrame(rows).convert_dtypes()


def _narrow(built: pd.DataFrame) -> pd.DataFrame:
    return built[built["access_bits"] < built["tile_access_bits"]]


def _names(built: pd.DataFrame) -> str:
    return ", ".join(f"{row['name']} on {row['target']}" for _, row in built.iterrows()) or "none"


def findings(records: Sequence[Record]) -> Iterator[str]:
    """What spills and what is narrow; the most registers; bytes by pass."""
    built, counted = _built(records), _counted(records)
    if not len(built) and not len(counted):
        yield MISSING
    if len(built):
        yield Finding(
            f"Of {len(built)} builds for {', '.join(dict.fromkeys(built['target']))} these spill registers: "
            f"{_names(built[built['spill_bytes'] > 0])}; these access memory in narrower pieces than alignment "
            f"permits: {_names(_narrow(built))}.",
            "costs",
        )
        most = built.sort_values("registers").iloc[-1]
        yield Finding(
            f"Most registers: {most['registers']:.0f} a thread, in {most['name']} on {most['target']}.", "costs"
        )
    if len(counted):
        parts = []
        for name, part in counted.groupby("kind", sort=False):
            low, high = part["bytes_per_element"].min(), part["bytes_per_element"].max()
            launches = " or ".join(f"{n:.0f}" for n in sorted(set(part["launches"])))
            parts.append(f"{name} {low:.2f} to {high:.2f} in {launches}")
        yield f"Bytes per element, and launches: {'; '.join(parts)}."


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """Registers of every build by kind of kernel, and bytes per element by run."""
    built, counted = _built(records), _counted(records)
    if not len(built) or not len(counted):
        return {}
    kinds, runs = list(dict.fromkeys(built["kind"])), list(counted["run"])
    figure, (left, right) = plots.panels(
        1,
        2,
        title="Cost of the kernels, read without a GPU: registers and bytes",
        height=1.2 + 0.24 * max(len(kinds), len(runs)),
    )
    targets = list(dict.fromkeys(built["target"]))
    for i, target in enumerate(targets):
        part = built[built["target"] == target]
        places = [kinds.index(kind) + (i - (len(targets) - 1) / 2) * 0.8 / len(targets) for kind in part["kind"]]
        left.plot(part["registers"], places, "o", ms=5, alpha=0.6, color=plots.CYCLE[i], label=target)
    left.set_yticks(range(len(kinds)), kinds)
    left.set_ylim(len(kinds) - 0.5, -0.5)
    left.set_xlim(0, max(136, built["registers"].max() + 8))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=len(targets))
    plots.label(left, x="registers per thread (a dot per build)", y="", title="compiled")
    bars = right.barh(runs, counted["bytes_per_element"], color=plots.CYCLE[0], height=0.6)
    right.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    right.set_xlim(0, counted["bytes_per_element"].max() * 1.15)
    plots.label(right, x="bytes per element", y="", title="counted under the interpreter")
    return {"costs": figure}
