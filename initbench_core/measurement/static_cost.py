"""Costs of a kernel that can be read off without running it: registers, spills, shared memory, width of accesses.

Kernels are compiled offline for devices that need not be there, and the numbers are read from the binary (NVIDIA: with
the disassembler that Triton's wheel ships; AMD: from the assembly). Launches and bytes per element are counted in a
second process, under Triton's interpreter.

    python -m initbench_core.measurement.static_cost            # the table of every kernel on every target
    python -m initbench_core.measurement.static_cost --target sm_90 --match dx --json costs.jsonl
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
        wide: whether loads and stores of that width are as many as the tiles need.
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
    wide: bool


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
    per_tensor = build.tile_bits // (build.threads * bits)
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
        wide=_enough(loads, bits, per_tensor * build.tile_loads)
        and _enough(stores, bits, per_tensor * build.tile_stores),
    )


def _enough(accesses: Counter[int], bits: int, needed: int) -> bool:
    """Whether so many accesses of `bits` bits have been made, counting a wider one as several."""
    return sum(count * (width // bits) for width, count in accesses.items()) >= needed


def traffic_records(match: str = "") -> list[dict[str, Any]]:
    """Return launches and bytes per element of every operator's runs, counted in an interpreting process.

    Args:
        match: regular expression, searched in the names of the runs; the others are left out.
    """
    command = [sys.executable, "-m", "initbench_core.measurement.traffic", *OPERATORS, "--match", match]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> int:
    """Print the table; return 1 where a kernel spills or accesses memory in narrower pieces than alignment permits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="default: all")
    parser.add_argument("--match", default="", help="regular expression on build names")
    parser.add_argument("--json", type=Path, help="also write one JSON object per line to this file")
    parser.add_argument("--no-traffic", action="store_true", help="skip the interpreter's count of bytes")
    options = parser.parse_args()
    records: list[dict[str, Any]] = []
    sound = True
    print(f"{'build':48} {'target':7} {'regs':>5} {'spill':>6} {'shared':>7} {'bits':>5}  wide")
    for build in builds():
        if not re.search(options.match, build.name):
            continue
        for target in options.target or TARGETS:
            cost = cost_of(build, target)
            sound &= cost.wide and cost.spill_bytes == 0
            print(
                f"{cost.name:48} {target:7} {cost.registers:5} {cost.spill_bytes:6} {cost.shared_bytes:7} "
                f"{cost.tile_access_bits:5}  {'yes' if cost.wide else 'NO'}",
                flush=True,
            )
            records.append(asdict(cost))
    if not options.no_traffic:
        print(f"\n{'run':48} {'launches':>8} {'bytes/element':>14}")
        for record in traffic_records():
            print(f"{record['name']:48} {record['launches']:8} {record['bytes_per_element']:14.2f}")
            records.append(record)
    if options.json:
        options.json.write_text("".join(json.dumps(record, allow_nan=False) + "\n" for record in records))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
