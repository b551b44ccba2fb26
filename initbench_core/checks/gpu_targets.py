"""What the fused operator should reach on a GPU, judged on the times of one `gpu_check` run.

All targets are ratios of times measured in the same run, most of them to a copy of the same bytes.
"""

import math
from dataclasses import dataclass

import pandas as pd

OWN = "fused_triton"
LARGE_MB = 64
SMALL = "128x128 bfloat16"
FEW, MANY = "22369621x3 bfloat16", "262144x256 bfloat16"
COMPILED = ("torch_compile", "torch_compile_max_autotune")


@dataclass(frozen=True)
class Target:
    """One target and what was measured; without data the value is nan, and the target missed."""

    text: str
    value: float
    least: float = -math.inf
    most: float = math.inf

    @property
    def is_met(self) -> bool:
        """Whether the value is there and within its bounds."""
        return math.isfinite(self.value) and self.least <= self.value <= self.most

    def __str__(self) -> str:
        """Return a line: target, value, verdict."""
        verdict = "met" if self.is_met else "MISSED" if math.isfinite(self.value) else "MISSED (not measured)"
        return f"{self.text:64}{self.value:8.3f}  {verdict}"


def judge(rows: pd.DataFrame) -> list[Target]:
    """Judge all targets.

    Args:
        rows: as `gpu_results.rows` returns them.
    """
    device = rows[rows["clock"] == "device"]
    own = device[(device["implementation"] == OWN) & (device["MB"] >= LARGE_MB)]
    floor = {name: group["time / floor"] for name, group in own.groupby("pass")}
    empty = pd.Series(dtype=float)
    targets = [
        Target(
            "eval, >= 64 MB: fraction of copy bandwidth >= 0.95, worst", 1 / floor.get("eval", empty).max(), least=0.95
        )
    ]
    for name, text in (("fwd_train", "forward training"), ("bwd", "backward")):
        worst = floor.get(name, empty).max()
        targets.append(Target(f"{text}, >= 64 MB: time over floor <= 1.10, worst", worst, most=1.1))
    for names, text, goal, least in (
        (("eager",), "eager", 2.0, 1.0),
        (COMPILED, "the better torch.compile", 1.2, 0.95),
    ):
        ratios = speedups(device, names)
        mean = float(ratios.map(math.log).mean())
        targets.append(Target(f"fwd_bwd against {text}: geometric mean >= {goal}", math.exp(mean), least=goal))
        targets.append(Target(f"fwd_bwd against {text}: worst >= {least}", ratios.min(), least=least))
    few, many = (_fwd_bwd(device, shape, OWN) for shape in (FEW, MANY))
    targets.append(Target("3 channels against 256, equal bytes: time ratio <= 1.3", few / many, most=1.3))
    for clock in ("device", "host"):
        part = rows[rows["clock"] == clock]
        ratio = _fwd_bwd(part, SMALL, OWN) / _fwd_bwd(part, SMALL, "eager")
        targets.append(Target(f"128 x 128 against eager, {clock} clock: time ratio <= 1.0", ratio, most=1.0))
    return targets


def speedups(rows: pd.DataFrame, implementations: tuple[str, ...]) -> pd.Series:
    """Return, by shape, how much longer than the project's operator the fastest of these takes (fwd_bwd)."""
    whole = rows[rows["pass"] == "fwd_bwd"]
    best = whole[whole["implementation"].isin(implementations)].groupby("shape")["ms"].min()
    return (best / whole[whole["implementation"] == OWN].set_index("shape")["ms"]).dropna()


def _fwd_bwd(rows: pd.DataFrame, shape: str, implementation: str) -> float:
    found = rows[(rows["shape"] == shape) & (rows["implementation"] == implementation) & (rows["pass"] == "fwd_bwd")]
    return float(found["ms"].iloc[0]) if len(found) else math.nan
