"""The kernel compiled without a GPU: no spills, no fused multiply-add, stores as wide as can be."""

import dataclasses
import re

import pytest

pytest.importorskip("triton")
from initbench_core.measurement import static_cost
from initbench_kernels.random_fill import offline

BUILDS = list(offline.builds())


@pytest.mark.parametrize("target", static_cost.TARGETS)
@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.name)
def test_binary(build, target):
    cost = static_cost.cost_of(build, target)
    assert cost.spill_bytes == 0
    assert cost.registers <= 128
    assert cost.wide, cost


@pytest.mark.parametrize("target", [t for t, (backend, *_) in static_cost.TARGETS.items() if backend == "cuda"])
@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.name)
def test_no_fused_multiply_add(build, target):
    """It rounds once where the specification rounds twice.

    The ones inside an exactly rounded division or square root are ptxas's own and invisible in PTX.
    """
    ptx = static_cost.compile_for(build, target).asm["ptx"]
    assert not re.search(r"\bfma\.", ptx)
    assert re.search(r"div\.rn\.f32", ptx)
    assert re.search(r"sqrt\.rn\.f32", ptx)


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.name)
def test_every_operation_is_rounded_on_amd_too(build):
    """Nothing permits approximate divisions and roots; additions and multiplications, packed in pairs, stay two."""
    asm = static_cost.compile_for(build, "gfx942").asm
    assert not re.search(r"\b(contract|fast|arcp|afn|reassoc)\b|!fpmath|llvm\.fm", asm["llir"])
    assert "v_pk_mul_f32" in asm["amdgcn"]
    assert "v_pk_fma" not in asm["amdgcn"]
    fused = dataclasses.replace(build, options={"enable_fp_fusion": True})
    assert "v_pk_fma_f32" in static_cost.compile_for(fused, "gfx942").asm["amdgcn"]
