"""What the initializer experiment says of its records: each ratio judged against its target."""

import numpy as np
import pytest

from initbench_core.experiments import initializer_speed
from initbench_core.measurement.goals import fill_goal
from initbench_core.records.schema import Measurement, Record, scalar


@pytest.mark.parametrize(
    ("fill_ms", "says"),
    [
        ([8.0, 8.1, 8.2, 8.1, 8.0], "(target 1: met)"),
        ([9.0, 11.0, 9.5, 10.5, 10.0], "parity (95% "),
        ([9.0, 11.0, 9.5, 10.5, 10.0], "(target 1: undecided)"),
        ([12.0, 12.1, 12.2, 12.1, 12.0], "(target 1: missed)"),
    ],
)
def test_a_ratio_is_judged_by_its_interval(fill_ms: list[float], says: str) -> None:
    config = {"workload": "tensor_1000000", "distribution": "uniform", "contender": "fill_", "seed": 0}
    at = {"round": list(range(5))}
    measured = [
        Measurement("torch_ms", "ms", [10.0] * 5, at),
        Measurement("fill_ms", "ms", fill_ms, at),
        Measurement("copy_ms", "ms", [4.0] * 5, at),
        scalar("elements", "1", 1e6),
        scalar("size", "bytes", 4e6),
        scalar("fill_peak", "bytes", 2e6),
        scalar("torch_peak", "bytes", 0.0),
    ]
    judged, floor = initializer_speed.findings([Record("e", config, "i", [*measured, scalar("target", "1", 1.0)])])
    assert says in judged
    without, _ = initializer_speed.findings([Record("e", config, "i", measured)])
    assert "target" not in without
    # Half the copy's 4 ms is what writing alone takes.
    assert floor.endswith(f"median over workloads: uniform {np.median(fill_ms) / 2:.2g}.")
    (row,) = initializer_speed.table([Record("e", config, "i", measured)]).to_dict("records")
    assert row["GB/s"] == pytest.approx(4e6 / np.median(fill_ms) / 1e6)
    assert (row["peak of fill / tensors"], row["peak of torch / tensors"]) == (0.5, 0)


@pytest.mark.parametrize(
    ("workload", "distribution", "stateless", "device", "elements", "threads", "wanted"),
    [
        ("mlp_1000x64", "normal", True, "cuda", 4_160_000, 2, 20.0),
        ("tensor_100000000", "uniform", True, "cuda", 100_000_000, 2, 1.0),
        ("tensor_1000000", "normal", False, "cpu", 1_000_000, 2, 1 / 12),
        ("tensor_1000000", "truncated_normal", True, "cpu", 1_000_000, 2, None),
        ("tensor_10000", "uniform", False, "cpu", 10_000, 2, None),
        ("tensor_1000000", "uniform", False, "cpu", 1_000_000, 1, None),
    ],
)
def test_targets_stand_for_large_workloads_on_two_threads_or_a_gpu(
    workload, distribution, stateless, device, elements, threads, wanted
) -> None:
    assert fill_goal(workload, distribution, stateless, device, elements, threads) == wanted
