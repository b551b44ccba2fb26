"""Kernels compiled for devices that are not there: no spills, accesses as wide as alignment permits."""

import dataclasses
import re

import pytest

from initbench_core.measurement import static_cost
from initbench_kernels.batch_norm_relu import launch, offline
from initbench_kernels.builds import Build

triton = pytest.importorskip("triton")
tl = triton.language

# All builds take minutes per target (the experiment `static_cost`, profile full). Here: each kernel on the layouts that
# are hardest on registers and on alignment, and each row of the tuning table in both widths of element.
CHECKED = re.compile(
    r"(stats|normalize_train|normalize_residual|reduce_residual|dx)-(rows_64|rows_411_unaligned|planes_7x7)-bf16"
    r"|(stats|dx)-(rows_18_folded|planes_56x56)-fp32"
    r"|(stats|normalize_train|reduce_train|dx)-(rows_64|rows_411_unaligned)-fp32"
    r"|(normalize_cumulative|reduce_input_only|dx_parameters_only)-planes_7x7-bf16"
)


def checked_builds() -> list[Build]:
    return [build for build in static_cost.builds() if CHECKED.fullmatch(build.name)]


@pytest.mark.parametrize("target", static_cost.TARGETS)
def test_no_spills_and_wide_accesses(target: str) -> None:
    """Read from the binary (NVIDIA) or the assembly (AMD)."""
    builds = checked_builds()
    assert len(builds) == 30
    for build in builds:
        cost = static_cost.cost_of(build, target)
        assert cost.spill_bytes == 0, cost
        assert cost.wide, cost
        assert 0 < cost.registers <= 128, cost


@triton.jit
def sum_by_atomics_kernel(x_ptr, y_ptr):
    """What the kernels do not do: add to memory in whatever order programs arrive."""
    tl.atomic_add(y_ptr, tl.load(x_ptr + tl.program_id(0)))


def atomics(build: Build, target: str) -> list[str]:
    """Return the atomic instructions of a build, from its PTX (NVIDIA) or assembly (AMD)."""
    asm = static_cost.compile_for(build, target).asm
    return re.findall(
        r"^\s*(?:@!?%\w+\s+)?(?:atom|red)\..*|\w+_atomic_\w+", asm.get("ptx") or asm["amdgcn"], re.MULTILINE
    )


@pytest.mark.parametrize("target", static_cost.TARGETS)
def test_no_atomics(target: str) -> None:
    """So the order of every sum is the program's, and the same call gives the same bits on any device."""
    assert {build.name: found for build in checked_builds() if (found := atomics(build, target))} == {}
    arguments = {"x_ptr": "*fp32", "y_ptr": "*fp32"}
    other = Build(
        sum_by_atomics_kernel, "sum", arguments, {}, 128, tile_bits=32, tile_loads=1, tile_stores=0, access_bits=32
    )
    assert atomics(other, target)


def test_every_row_of_the_tuning_table_is_built() -> None:
    """The layouts of `offline` reach every row, so what is recorded covers the tuning table."""
    reached = {
        (name, width)
        for name, width in launch.TILES
        for layout in offline.LAYOUTS.values()
        for bits in offline.BITS.values()
        if launch.choose(name, layout, bits // 8)[0] is launch.TILES[name, width]
    }
    assert reached == set(launch.TILES)


def test_spills_and_narrow_accesses_are_noticed() -> None:
    """A build starved of registers spills; one of unaligned rows is not as wide as an aligned one would be."""
    builds = {build.name: build for build in static_cost.builds()}
    starved = dataclasses.replace(builds["dx-rows_64-bf16"], options={"maxnreg": 32})
    assert static_cost.cost_of(starved, "sm_90").spill_bytes > 0
    unaligned = dataclasses.replace(builds["dx-rows_411_unaligned-bf16"], access_bits=128)
    assert not static_cost.cost_of(unaligned, "sm_90").wide


def test_traffic_records() -> None:
    """Launches and bytes per element: so many passes, and at most 12% for everything of size C and the fills' table."""
    records = {record["name"]: record for record in static_cost.traffic_records()}
    bf16, fp32 = 2, 4
    passes = {
        "forward_train": (3 * bf16, 2),
        "forward_eval": (2 * bf16, 1),
        "forward_residual": (4 * bf16, 2),
        "backward_train": (5 * bf16, 2),
        "backward_eval": (3 * bf16, 2),
        "backward_residual": (6 * bf16, 2),
        "random_fill": (fp32, 1),
    }
    assert len(records) == 20
    for name, record in records.items():
        floor, launches = passes[name.split("-")[0]]
        assert record["launches"] == launches, name
        assert floor < record["bytes_per_element"] <= 1.12 * floor, name
