"""Costs of a kernel that can be read off without running it: registers, spills, shared memory, width of accesses.

Kernels are compiled offline for devices that need not be there, and the numbers are read from the binary (NVIDIA: with
the disassembler that Triton's wheel ships; AMD: from the assembly). Launches and bytes per element are counted in a
second process, under Triton's interpreter. The experiment `static_cost` records them.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initbench_kernels.builds import Build

# Modules with a `builds()` and a `runs()` generator: one per operator.
OPERATORS = ("initbench_kernels.batch_norm_relu.offline", "initbench_kernels.random_fill.offline")

# (backend, architecture, threads per warp) as triton.backends.compiler.GPUTarget takes them.
TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}

SUFFIX_BITS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128, "256": 256}
AMD_BITS = {"ubyte": 8, "sbyte": 8, "byte": 8, "ushort": 16, "sshort": 16, "short": 16, "dword": 32} | {
    f"dwordx{n}": 32 * n for n in (2, 3, 4)
}


@dataclass(frozen=True)
class StaticCost:
    """What one kernel costs on one target.

    Attributes:
        kernel: name of the function.
        name: of the build.
        target: key of TARGETS.
        registers: per thread (AMD: vector registers).
        spill_bytes: per thread, of local memory (AMD: of scratch).
        shared_bytes: per program.
        loads: how many load instructions of each width in bits.
        stores: likewise.
        tile_access_bits: the width that the build's tensors should be accessed with.
        access_bits: the width that they are accessed with.
    """

    kernel: str
    name: str
    target: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    loads: dict[int, int]
    stores: dict[int, int]
    tile_access_bits: int
    access_bits: int

    @property
    def accesses(self) -> int:
        """Load and store instructions in the binary: more of them are narrower ones."""
        return sum(self.loads.values()) + sum(self.stores.values())

    @property
    def wide(self) -> bool:
        """Whether accesses are as wide as they should be."""
        return self.access_bits == self.tile_access_bits


def builds() -> Iterator[Build]:
    """Yield the builds of every operator."""
    for name in OPERATORS:
        yield from importlib.import_module(name).builds()


def compile_for(build: Build, target: str) -> Any:
    """Compile a build for a key of TARGETS; return Triton's compiled kernel, with its `asm` and `metadata`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = build.kernel.arg_names
    source = ASTSource(
        fn=build.kernel,
        signature={name: build.arguments.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in build.constants.items()},
        attrs={
            (names.index(name),): [["tt.divisibility", 16]]
            for name, kind in build.arguments.items()
            if kind.startswith("*")
        },
    )
    # Triton 3.9 warns where fusion of multiply and add is left to its default, which this is.
    options = {"num_warps": build.threads // TARGETS[target][2], "enable_fp_fusion": True} | build.options
    return triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)


def _cuobjdump(cubin: bytes) -> str:
    """Return resource usage and disassembly of a binary."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", "-sass", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _search(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern!r} in the compiler's output: has its format changed?")
    return int(found[1])


def _nvidia_accesses(sass: str, instruction: str) -> Counter[int]:
    suffixes = re.findall(rf"\b{instruction}\.E([.\w]*)", sass)
    return Counter(next((SUFFIX_BITS[part] for part in s.split(".") if part in SUFFIX_BITS), 32) for s in suffixes)


def _amd_accesses(assembly: str, instruction: str) -> Counter[int]:
    kinds = re.findall(rf"\b(?:global|buffer|flat)_{instruction}_(dwordx\d|[a-z]+)", assembly)
    return Counter(AMD_BITS[kind] for kind in kinds)


def cost_of(build: Build, target: str) -> StaticCost:
    """Compile a build for a target and read its cost.

    Raises:
        RuntimeError: the compiler's output has no such number.
        triton.CompilationError, subprocess.CalledProcessError: the kernel does not compile.
    """
    compiled = compile_for(build, target)
    if TARGETS[target][0] == "cuda":
        text = _cuobjdump(compiled.asm["cubin"])
        registers, spill_bytes = _search(r"REG:(\d+)", text), _search(r"STACK:(\d+)", text)
        loads, stores = _nvidia_accesses(text, "LDG"), _nvidia_accesses(text, "STG")
    else:
        text = compiled.asm["amdgcn"]
        registers = _search(r"\.vgpr_count:\s+(\d+)", text)
        spill_bytes = _search(r"\.private_segment_fixed_size:\s+(\d+)", text)
        loads, stores = _amd_accesses(text, "load"), _amd_accesses(text, "store")
    # A thread cannot access more at a time than its share of the tile.
    bits = min(build.access_bits, build.tile_bits // build.threads)
    widths = (bits >> halvings for halvings in range(5))
    return StaticCost(
        kernel=build.kernel.__name__,
        name=build.name,
        target=target,
        registers=registers,
        spill_bytes=spill_bytes,
        shared_bytes=compiled.metadata.shared,
        loads=dict(sorted(loads.items())),
        stores=dict(sorted(stores.items())),
        tile_access_bits=bits,
        access_bits=next((width for width in widths if _suffice(loads, stores, build, width)), 0),
    )


def _suffice(loads: Counter[int], stores: Counter[int], build: Build, bits: int) -> bool:
    """Whether the accesses of `bits` bits and more are as many as the tiles need."""
    per_tensor = build.tile_bits // (build.threads * bits)
    needs = ((loads, build.tile_loads), (stores, build.tile_stores))
    return all(_of_width(accesses, bits) >= per_tensor * tensors for accesses, tensors in needs)


def _of_width(accesses: Counter[int], bits: int) -> int:
    """Count accesses of `bits` bits, a wider one as several."""
    return sum(count * (width // bits) for width, count in accesses.items())


def traffic_records(match: str = "", operators: Sequence[str] = OPERATORS) -> list[dict[str, Any]]:
    """Return launches and bytes per element of operators' runs, counted in an interpreting process.

    Args:
        match: regular expression, searched in the names of the runs; the others are left out.
        operators: of OPERATORS.
    """
    command = [sys.executable, "-m", "initbench_core.measurement.traffic", *operators, "--match", match]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]
