"""The kernel compiled without a GPU: no spills, no fused multiply-add, 128-bit stores."""

import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from initbench_kernels.random_fill.launch import COMPILE_ROWS  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def compiled(row, target):
    names = list(row["signature"])
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if row["signature"][name][0] == "*"}
    source = ASTSource(row["kernel"], signature=row["signature"], constexprs=row["constexprs"], attrs=aligned)
    return triton.compile(source, target=target, options={"num_warps": row["num_warps"], **row["options"]}).asm


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("row", COMPILE_ROWS, ids=lambda row: row["name"])
def test_cuda_binary(row, arch, tmp_path):
    asm = compiled(row, GPUTarget("cuda", arch, 32))
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(asm["cubin"])
    usage = subprocess.run([CUOBJDUMP, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
    assert found, usage
    registers, stack, local = map(int, found.groups())
    assert (stack, local) == (0, 0)
    assert registers <= 128
    # A fused multiply-add rounds once where the specification rounds twice. The ones inside an exactly rounded division
    # or square root are ptxas's own and invisible in PTX.
    assert not re.search(r"\bfma\.", asm["ptx"])
    assert re.search(r"div\.rn\.f32", asm["ptx"])
    assert re.search(r"sqrt\.rn\.f32", asm["ptx"])
    sass = subprocess.run([CUOBJDUMP, "-sass", cubin], capture_output=True, text=True, check=True).stdout
    assert "STG.E.128" in sass


@pytest.mark.parametrize("row", COMPILE_ROWS, ids=lambda row: row["name"])
def test_amd_binary(row):
    assembly = compiled(row, GPUTarget("hip", "gfx942", 64))["amdgcn"]
    for name in ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size"):
        assert re.findall(rf"\.{name}:\s*(\d+)", assembly) == ["0"]
    # 512 lanes share 1,024 values: two float32 to a store is the widest that there is.
    assert "global_store_dwordx2" in assembly
