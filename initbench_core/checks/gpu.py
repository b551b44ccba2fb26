"""One command for whoever has a GPU: is the fused operator right, and how fast is it beside what else there is?

    make gpu-check
    PYTHONPATH=.:kernels python -m initbench_core.checks.gpu       # where nothing can be installed

Runs the GPU tests against float64, then times every pass of every implementation over SHAPES, with the L2 cache
flushed, next to a copy of the same bytes in the same run. Records a trial per shape in results/runs, as the experiments
do, and draws a figure into results/figures; made to take under 8 minutes.
Exit status: 0 all targets are met, 1 a test or a shape failed, or a target is missed or undecided, 2 the machine cannot
run it.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from initbench_core import environment
from initbench_core.checks.gpu_results import NAME, GpuCheck, rows
from initbench_core.checks.gpu_targets import judge, questions
from initbench_core.errors import UserError
from initbench_core.measurement import contest
from initbench_core.measurement.shapes import Shape
from initbench_core.measurement.timing import paired_cuda_wall_ms
from initbench_core.measurement.workload import PASSES, Workload
from initbench_core.networks.implementations import forget_compiled
from initbench_core.presentation import speed
from initbench_core.presentation.figures import draw_figures
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.schema import Emission, Failure, Measurement, Note, Record, scalar
from initbench_core.records.store import RecordFile

ROOT = Path(__file__).parents[2]
TESTS = ("batch_norm_relu/test_batch_norm_relu_gpu.py", "random_fill/test_fill_gpu.py")
# A shape is begun only before this time, in seconds since the start; the rest is reported as not measured.
LAST_START_S = 420
DEVICE, PROFILE = "cuda", "full"
# Rounds before the intervals are looked at, and those after which a target stays undecided.
ROUNDS, MOST_ROUNDS = 10, 40

# The first three hold equal bytes; 3 channels against 256 is one of the targets. Real shapes are resnet50's at 128.
SHAPES = (
    Shape((262_144, 256), "bfloat16"),
    Shape((22_369_621, 3), "bfloat16"),
    Shape((65_536, 1024), "bfloat16"),
    Shape((128, 128), "bfloat16"),
    Shape((128, 64, 112, 112), "bfloat16", "channels_last"),
    Shape((128, 64, 112, 112), "bfloat16"),
    Shape((128, 2048, 7, 7), "bfloat16"),
    Shape((128, 2048, 7, 7), "bfloat16", "channels_last"),
    Shape((128, 256, 56, 56), "bfloat16"),
    Shape((128, 256, 56, 56), "bfloat16", "channels_last"),
    Shape((128, 512, 28, 28), "bfloat16"),
    Shape((128, 1024, 14, 14), "bfloat16"),
    Shape((65_536, 64), "bfloat16"),
    Shape((65_536, 411), "bfloat16"),
    Shape((4096, 512), "bfloat16"),
    Shape((1_048_577, 16), "bfloat16"),
    Shape((880_802, 3)),
    Shape((65_536, 1024)),
    Shape((32, 256, 14, 14)),
)

# max-autotune compiles for minutes: it is compared where the targets need it.
AUTOTUNED = frozenset(SHAPES[i] for i in (0, 1, 4, 5, 6))


def measure(shape: Shape) -> Iterator[Emission]:
    """Yield what one shape gives: times by pass and implementation, and notes on what is left out."""
    forget_compiled()
    compiled = ("torch_compile", "torch_compile_max_autotune") if shape in AUTOTUNED else ("torch_compile",)
    field = contest.admit(Workload(shape, DEVICE), compiled=compiled)
    for name, reason in field.left_out.items():
        yield Note(f"{name}: {reason}")
    asked = {pass_name: questions(pass_name, shape.num_bytes) for pass_name in PASSES}
    times = contest.times_until_decided_ms(field, asked, rounds=ROUNDS, min_ms=1.0, most=MOST_ROUNDS)
    for pass_name in PASSES:
        yield speed.measurement(pass_name, times[pass_name])
        if pass_name == "fwd_bwd" and shape.num_bytes < 2**20 and field.first_call_s:
            names = field.taking_part(pass_name)
            walls = paired_cuda_wall_ms(*(field.call(name, pass_name) for name in names))
            yield speed.measurement(pass_name, dict(zip(names, walls.tolist(), strict=True)), "wall_time")
    yield speed.by_implementation("first_call", "s", field.first_call_s)
    yield scalar("size", "bytes", shape.num_bytes)


def trial(shape: Shape, identity: str, elapsed_s: float) -> Record:
    """Measure one shape; what fails, or comes too late to be begun, is a record of the failure."""
    started = time.perf_counter()
    failure, emissions = None, []
    if elapsed_s > LAST_START_S:
        failure = Failure("timeout", f"not measured: the check had taken {elapsed_s:.0f} s by then", attempts=0)
    else:
        try:
            emissions = list(measure(shape))
        except Exception as error:
            reason = "out_of_memory" if isinstance(error, torch.OutOfMemoryError) else "raised"
            failure = Failure(reason, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return Record(
        experiment=NAME,
        config={"shape": str(shape)},
        identity=identity,
        measurements=[emission for emission in emissions if isinstance(emission, Measurement)],
        notes=[emission.text for emission in emissions if isinstance(emission, Note)],
        seconds=time.perf_counter() - started,
        failure=failure,
    )


def record_all(folder: ResultsFolder, start: float) -> list[Record]:
    """Measure all shapes into `folder`, and draw the figure; return the records of the shapes that were measured."""
    described = environment.describe(DEVICE)
    run = RunName(NAME, PROFILE, environment.device_slug(DEVICE))
    identity = environment.identity(described, Path(__file__), [], folder.token())
    manifest = {
        "profile": PROFILE, "trials": len(SHAPES), "environment": described,
        "command": "python -m initbench_core.checks.gpu",
    }  # fmt: skip
    # A check is of one sitting: what an earlier one measured is set aside, never continued.
    file = RecordFile(folder.records(run), identity, manifest, fresh=True)
    records = []
    for shape in SHAPES:
        record = trial(shape, identity, time.monotonic() - start)
        file.append(record)
        if record.failure:
            print(f"{shape}: {record.failure.message}", flush=True)
        else:
            records.append(record)
            _show(record)
    file.finish()
    for line in [*file.warnings, folder.records(run), *draw_figures(folder, [run], lambda name: GpuCheck())]:
        print(line)
    return records


def run_tests() -> bool:
    """Run the GPU tests with pytest alone, no plugin and no configuration; return whether they passed."""
    paths = [ROOT, ROOT / "kernels", ROOT / "tests"]
    search = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    command += ["-q", "-W", "ignore::pytest.PytestUnknownMarkWarning", "--maxfail=20"]
    command += [str(ROOT / "tests" / "initbench_kernels" / test) for test in TESTS]
    return subprocess.run(command, cwd=ROOT, env=search).returncode == 0


def obstacle() -> str | None:
    """Return what the machine lacks, or None."""
    if not torch.cuda.is_available():
        return f"a CUDA device (torch {torch.__version__} sees none)"
    missing = [name for name in ("triton", "pytest", "matplotlib") if importlib.util.find_spec(name) is None]
    return f"the package {missing[0]}" if missing else None


def main() -> int:
    """Run everything; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-tests", action="store_true", help="time only")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder to write to")
    options = parser.parse_args()
    missing = obstacle()
    if missing:
        print(f"gpu-check needs {missing}", file=sys.stderr)
        return 2
    start = time.monotonic()
    sound = options.no_tests or run_tests()
    folder = ResultsFolder(options.results)
    try:
        folder.prepare()
        with folder.lock():
            records = record_all(folder, start)
    except UserError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    targets = judge(rows(records))
    print("\n".join(["", f"{'target':64} measured", *map(str, targets)]))
    print(f"{time.monotonic() - start:.0f} s; `initbench report` puts it beside the experiments")
    whole = sound and len(records) == len(SHAPES)
    return 0 if whole and all(target.verdict == "met" for target in targets) else 1


def _show(record: Record) -> None:
    for row in rows([record]).to_dict("records"):
        gbps = f"{row['GB/s']:8.0f} GB/s" if row["clock"] == "device" else " " * 13
        against = f"{row['speed-up']:6.2f} times eager ({row['verdict']})" if row["speed-up"] > 0 else ""
        print(
            f"{row['case']:36} {row['implementation']:26} {row['pass']:9} {row['clock']:6} "
            f"{row['ms']:9.4f} ms [{row['ms low']:.4f}, {row['ms high']:.4f}] {gbps} {against}",
            flush=True,
        )
    for note in record.notes:
        print(note, flush=True)


if __name__ == "__main__":
    sys.exit(main())
