"""What the records of `gpu_check` say: as a table, as findings, and as a figure."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from initbench_core.checks.gpu_targets import judge
from initbench_core.measurement.roofline import bandwidth_gbps, floor_ms
from initbench_core.measurement.timing import estimate
from initbench_core.presentation import gpu_check_figure
from initbench_core.presentation.statistics import Interval, ratio_text
from initbench_core.presentation.story import Claim
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Record

NAME = "gpu_check"
BASELINE, COPY = "eager", "copy"
COLUMNS = (
    "shape", "MB", "pass", "clock", "implementation", "ms", "low", "high", "GB/s", "time / floor", "against eager",
    "rounds",
)  # fmt: skip


def rows(records: Sequence[Record]) -> pd.DataFrame:
    """Return a row per shape, pass, clock ("device" or "host") and implementation, the copy left out."""
    found = []
    for record in records:
        frame = tidy([record])
        size = int(frame[frame["metric"] == "size"]["value"].iloc[0])
        for (metric, of_pass), group in frame[frame["metric"] != "size"].groupby(["metric", "pass"], sort=False):
            pass_name = str(of_pass)
            rounds = group.pivot(index="round", columns="implementation", values="value")
            for name in (name for name in group["implementation"].unique() if name != COPY):
                time = estimate(rounds[name])
                row = {"shape": record.config["shape"], "MB": size / 1e6, "pass": pass_name, "implementation": name}
                row |= {"ms": time.median, "low": time.low, "high": time.high, "rounds": time.samples}
                row |= {"clock": "device" if metric == "time" else "host"}
                if metric == "time":
                    row["GB/s"] = bandwidth_gbps(pass_name, size, time.median)
                    row["time / floor"] = time.median / floor_ms(pass_name, float(np.median(rounds[COPY])))
                if name != BASELINE and BASELINE in rounds:
                    ratio = estimate(rounds[BASELINE] / rounds[name])
                    row["against eager"] = ratio_text(Interval(ratio.median, ratio.low, ratio.high))
                found.append(row)
    return pd.DataFrame(found, columns=list(COLUMNS))


class GpuCheck:
    """The check, as the report sees it; `experiments` describes each part."""

    title = "The fused operator on a GPU: every pass of every implementation, beside a copy of the same bytes"
    question = """Question: is the fused BatchNorm+ReLU right on this GPU, and how fast is it beside what else there is?

Before anything is timed the GPU tests hold it against float64, and every implementation is checked on every shape.
Then all implementations of a pass and a copy of the tensor take turns, each sample the median of what fits into some
milliseconds, between events on the stream and with the L2 cache flushed; the wrapper's overhead is inside. "host"
times are back-to-back calls by the host's clock. The floor is the copy's time for the bytes that a fused pass moves.
Ratios are medians over rounds; one whose interval includes 1 is called parity.

Expected: the targets that `initbench_core/checks/gpu_targets.py` names.
Source: this project's own."""

    def table(self, records: Sequence[Record]) -> pd.DataFrame:
        """Return the times."""
        return rows(records)

    def findings(self, records: Sequence[Record]) -> list[str]:
        """Return how many targets are met, each target, and what was not measured."""
        targets = judge(rows(records))
        met = sum(target.is_met for target in targets)
        reasons = dict.fromkeys(note for record in records for note in record.notes)
        return [
            f"{met} of {len(targets)} targets are met.",
            *(" ".join(str(target).split()) for target in targets),
            f"Left out: {'; '.join(reasons) or 'nothing'}.",
        ]

    def claims(self, records: Sequence[Record]) -> list[Claim]:
        """Return none: speed is no part of the story."""
        return []

    def figures(self, records: Sequence[Record]) -> Mapping[str, Figure]:
        """Return how close every implementation comes to the floor."""
        return {"floor": gpu_check_figure.draw(rows(records))}
