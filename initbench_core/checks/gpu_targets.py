"""What the fused operator should reach on a GPU, judged on the times of one `gpu_check` run.

All targets are ratios of times measured in the same run, most of them to a copy of the same bytes, and go by their
intervals.
"""

import numpy as np
import pandas as pd

from initbench_core.measurement.bootstrap import stratified_interval
from initbench_core.measurement.contest import Question
from initbench_core.measurement.goals import GOALS
from initbench_core.measurement.roofline import COPY, floor_ms
from initbench_core.networks.implementations import BASELINE
from initbench_core.presentation.speed import median
from initbench_core.presentation.statistics import Interval
from initbench_core.presentation.targets import UNMEASURED, Target, of_speedups

GOAL = GOALS["cuda"]
OWN = GOAL.implementation
LARGE_MB = 64
# Time over the memory floor, at most; evaluation at 95% of a copy's bandwidth.
FLOORS = {"eval": ("evaluation", 1 / 0.95), "fwd_train": ("forward, training", 1.1), "bwd": ("backward", 1.1)}
COMPILED = ("torch_compile", "torch_compile_max_autotune")
COMPILED_MEAN, COMPILED_LEAST = 1.2, 0.95
SMALL = "128x128 bfloat16"
FEW, MANY = "22369621x3 bfloat16", "262144x256 bfloat16"
FEW_MOST, SMALL_MOST = 1.3, 1.0


def questions(pass_name: str, num_bytes: int) -> list[Question]:
    """Return what a pass over a tensor of so many bytes is timed for, until it is answered."""
    if pass_name == "fwd_bwd":
        return [Question(OWN, BASELINE, GOAL.least), *(Question(OWN, name, COMPILED_LEAST) for name in COMPILED)]
    if num_bytes < LARGE_MB * 1e6:
        return []
    return [Question(OWN, COPY, 1 / (FLOORS[pass_name][1] * floor_ms(pass_name, 1.0)))]


def judge(rows: pd.DataFrame) -> list[Target]:
    """Judge all targets; what lacks its times is not measured.

    Args:
        rows: as `gpu_results.rows` returns them.
    """
    device = rows[rows["clock"] == "device"]
    whole = device[device["pass"] == "fwd_bwd"]
    found = [_floor(device, name) for name in FLOORS]
    # One row a shape, also where the operator is missing, which then tells.
    every = whole.drop_duplicates("case")[["case"]]
    own = every.merge(whole[whole["implementation"] == OWN], how="left", on="case")
    found += of_speedups(own, "eager, fwd_bwd", GOAL.mean, GOAL.least)
    found += of_speedups(_over_compiled(whole), "the better torch.compile, fwd_bwd", COMPILED_MEAN, COMPILED_LEAST)
    few, many = (_times(whole, shape, OWN) for shape in (FEW, MANY))
    text = f"3 channels against 256, equal bytes: time ratio <= {FEW_MOST}"
    found.append(Target(text, {FEW: _ratio(few, many, in_turns=False)}, most=FEW_MOST))
    for clock in ("device", "host"):
        part = rows[(rows["clock"] == clock) & (rows["pass"] == "fwd_bwd")]
        ratio = _ratio(_times(part, SMALL, OWN), _times(part, SMALL, BASELINE), in_turns=True)
        text = f"128 x 128 against eager, {clock} clock: time ratio <= {SMALL_MOST}"
        found.append(Target(text, {SMALL: ratio}, most=SMALL_MOST))
    return found


def _floor(device: pd.DataFrame, pass_name: str) -> Target:
    title, most = FLOORS[pass_name]
    large = device[(device["pass"] == pass_name) & (device["MB"] >= LARGE_MB)]
    own = large[large["implementation"] == OWN].set_index("case")["over floor"]
    cases = {case: median(own[case]) if case in own else UNMEASURED for case in large["case"].unique()}
    return Target(f"{title}, >= {LARGE_MB} MB: time over floor <= {most:.2f}", cases, most=most)


def _over_compiled(whole: pd.DataFrame) -> pd.DataFrame:
    """Return the speed-ups of the operator over the faster of torch.compile's two, where one of them was measured."""
    found = []
    for case, group in whole.groupby("case", sort=False):
        compiled = group[group["implementation"].isin(COMPILED)].sort_values("ms")["samples"]
        own = group[group["implementation"] == OWN]["samples"]
        if len(compiled) and len(own):
            ratios = compiled.iloc[0] / own.iloc[0]
            found.append([case, *median(ratios), ratios])
        elif len(compiled):
            found.append([case, *UNMEASURED, None])
    return pd.DataFrame(found, columns=["case", "speed-up", "low", "high", "ratios"])


def _times(rows: pd.DataFrame, case: str, implementation: str) -> np.ndarray:
    found = rows[(rows["case"] == case) & (rows["implementation"] == implementation)]
    return np.concatenate([*found["samples"], []])


def _ratio(a: np.ndarray, b: np.ndarray, *, in_turns: bool) -> Interval:
    """Return the ratio of two times: its median within rounds, or the ratio of the medians of separate rounds."""
    if not (len(a) and len(b)):
        return UNMEASURED
    if in_turns:
        return median(a / b)
    ends = stratified_interval([a, b], lambda drawn: np.median(drawn, axis=1), lambda medians: medians[0] / medians[1])
    return Interval(float(np.median(a) / np.median(b)), *ends)
