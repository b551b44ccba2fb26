"""The figure of `gpu_check`: how close each implementation comes to the memory floor, for every shape."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from initbench_core.measurement.roofline import floor_ms

PASSES = ("eval", "fwd_train", "bwd", "fwd_bwd")
TITLES = {"eval": "evaluation", "fwd_train": "forward", "bwd": "backward", "fwd_bwd": "forward + backward"}


def draw(
    records: list[dict[str, Any]],
    times: Mapping[tuple[str, str, str, str], float],
    environment: dict[str, str],
    path: Path,
) -> None:
    """Draw one panel per pass: floor over time, 1 being a copy's bandwidth at the fused passes' bytes.

    Args:
        records: of the whole run, in order.
        times: milliseconds by (label, implementation, pass, metric).
        environment: device and versions, for the title.
        path: of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    labels = list(dict.fromkeys(r["label"] for r in records))
    names = [name for name in dict.fromkeys(r["implementation"] for r in records) if name != "copy"]
    figure, axes = plt.subplots(1, len(PASSES), figsize=(16, 1.5 + 0.42 * len(labels)), sharey=True)
    height = 0.8 / max(1, len(names))
    for axis, pass_name in zip(axes, PASSES, strict=True):
        for i, name in enumerate(names):
            rows, fractions = [], []
            for row, label in enumerate(labels):
                time = times.get((label, name, pass_name, "median_ms"))
                copy = times.get((label, "copy", "copy", "median_ms"))
                if time is not None and copy is not None:
                    rows.append(row + (i - (len(names) - 1) / 2) * height)
                    fractions.append(floor_ms(pass_name, copy) / time)
            axis.barh(rows, fractions, height, label=name, color=f"C{i}")
        axis.axvline(1, color="0.3", linewidth=0.8)
        axis.set(title=TITLES[pass_name], xlabel="memory floor / time")
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].invert_yaxis()
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="lower center", ncols=max(1, len(names)), frameon=False)
    versions = ", ".join(f"{key} {environment[key]}" for key in ("torch", "triton", "date"))
    figure.suptitle(f"BatchNorm + ReLU on {environment['device']} ({versions})")
    figure.tight_layout(rect=(0, 0.04, 1, 0.98))
    figure.savefig(path, dpi=120)
    plt.close(figure)
