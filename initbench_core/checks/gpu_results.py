"""What the records of `gpu_check` say: as a table, as findings, and as a figure."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from initbench_core.checks.gpu_targets import judge
from initbench_core.measurement.roofline import COPY, bandwidth_gbps
from initbench_core.networks.implementations import BASELINE
from initbench_core.presentation import gpu_check_figure, speed
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Record

NAME = "gpu_check"
CLOCKS = {"time": "device", "wall_time": "host"}
COLUMNS = (
    "shape", "MB", "pass", "clock", "implementation", "ms", "ms low", "ms high", "GB/s", "time / floor", "speed-up",
    "low", "high", "verdict", "rounds",
)  # fmt: skip


def rows(records: Sequence[Record]) -> pd.DataFrame:
    """Return a row per shape ("case"), pass, clock ("device" or "host") and implementation, as `speed.speedups`.

    The device's have a bandwidth, and the time over the floor as its samples and their median. The copy is left out:
    the floor is made of it.
    """
    found = []
    for record in records:
        frame = tidy([record]).assign(case=record.config["shape"])
        size = int(frame[frame["metric"] == "size"]["value"].iloc[0])
        for metric, clock in CLOCKS.items():
            part = speed.speedups(frame[frame["metric"] == metric], BASELINE)
            if clock == "device":
                part["over floor"] = speed.over_floor(part)
            part = part[part["implementation"] != COPY].assign(MB=size / 1e6, clock=clock)
            if clock == "device":
                part["GB/s"] = [bandwidth_gbps(n, size, ms) for n, ms in zip(part["pass"], part["ms"], strict=True)]
                part["time / floor"] = part["over floor"].map(np.median)
            found += part.to_dict("records")
    return pd.DataFrame(found, columns=["case", *COLUMNS[1:], *speed.SAMPLES, "over floor"])


class GpuCheck:
    """The check, as the report sees it; `experiments` describes each part."""

    title = "The fused operator on a GPU: every pass of every implementation, beside a copy of the same bytes"
    question = """Question: is the fused BatchNorm+ReLU right on this GPU, and how fast is it beside what else there is?

Before anything is timed the GPU tests hold it against float64, and every implementation is checked on every shape.
Then all implementations of a pass and a copy of the tensor take turns, each sample the median of what fits into some
milliseconds, between events on the stream and with the L2 cache flushed; the wrapper's overhead is inside. "host"
times are back-to-back calls by the host's clock. The floor is the copy's time for the bytes that a fused pass moves.
Ratios are medians over rounds; one whose interval includes 1 is called parity. Rounds go on
until the interval of a target is on one side of it, up to a limit.

Expected: the targets that `initbench_core/checks/gpu_targets.py` names.
Source: this project's own."""

    def table(self, records: Sequence[Record]) -> pd.DataFrame:
        """Return the times."""
        return rows(records).rename(columns={"case": "shape"})[list(COLUMNS)]

    def findings(self, records: Sequence[Record]) -> list[str]:
        """Return how many targets are met, each target, and what was not measured."""
        targets = judge(rows(records))
        met = sum(target.verdict == "met" for target in targets)
        reasons = dict.fromkeys(note for record in records for note in record.notes)
        return [
            f"{met} of {len(targets)} targets are met, by their 95% intervals.",
            *(" ".join(str(target).split()) for target in targets),
            f"Left out: {'; '.join(reasons) or 'nothing'}.",
        ]

    def claims(self, records: Sequence[Record]) -> list[Claim]:
        """Return none: speed is no part of the story."""
        return []

    def figures(self, records: Sequence[Record]) -> Mapping[str, Figure]:
        """Return how close every implementation comes to the floor."""
        return {"floor": gpu_check_figure.draw(rows(records))}
