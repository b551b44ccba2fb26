"""One command for whoever has a GPU: is the fused operator right, and how fast is it beside what else there is?

    make gpu-check
    PYTHONPATH=.:kernels python -m initbench_core.checks.gpu       # where nothing can be installed

Runs the GPU tests against float64, then times every pass of every implementation over SHAPES, with the L2 cache
flushed, next to a copy of the same bytes in the same run. Writes one JSON record per number to
results/gpu_check/<device>.jsonl and a figure to results/gpu_check/<device>.png; made to take under 8 minutes.
Exit status: 0 all targets met, 1 a test failed or a target was missed, 2 the machine cannot run it.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from initbench_core.checks.gpu_targets import summarize, times_of
from initbench_core.environment import device_slug
from initbench_core.measurement import roofline
from initbench_core.measurement.shapes import Shape
from initbench_core.measurement.timing import cuda_times_ms, cuda_wall_ms, estimate
from initbench_core.measurement.workload import Workload
from initbench_core.networks.implementations import IMPLEMENTATIONS, forget_compiled

ROOT = Path(__file__).parents[2]
TESTS = "tests/initbench_kernels/batch_norm_relu/test_batch_norm_relu_gpu.py"
# A shape is begun only before this time, in seconds since the start; the rest is reported as not measured.
LAST_START_S = 420


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


def environment() -> dict[str, str]:
    """Return what the numbers depend on, stored with each of them."""
    import triton

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": str(torch.version.cuda),
        "commit": commit.stdout.strip() or "unknown",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def measure(shape: Shape) -> Iterator[dict[str, Any]]:
    """Yield the records of one shape; what fails is a record with an outcome instead of a value."""
    workload = Workload(shape, "cuda")

    def record(implementation: str, pass_name: str, metric: str, samples: list[float]) -> dict[str, Any]:
        e = estimate(samples)
        values = {"value": e.median, "low": e.low, "high": e.high, "samples": e.samples}
        return {"implementation": implementation, "pass": pass_name, "metric": metric, "unit": "ms", **values}

    yield record("copy", "copy", "median_ms", cuda_times_ms(workload.copy()))
    for name, implementation in IMPLEMENTATIONS.items():
        if name == "torch_compile_max_autotune" and shape not in AUTOTUNED:
            continue
        try:
            obstacle = implementation.obstacle(workload.x)
            if obstacle is not None:
                yield {"implementation": name, "pass": "all", "metric": "outcome", "outcome": obstacle}
                continue
            workload.check(implementation)
            for pass_name in workload.passes(implementation):
                call = workload.call(implementation, pass_name)
                yield record(name, pass_name, "median_ms", cuda_times_ms(call))
                if pass_name == "fwd_bwd" and shape.num_bytes < 2**20:
                    yield record(name, pass_name, "wall_ms", cuda_wall_ms(call))
        except Exception as error:  # one implementation's failure must not lose the others' numbers
            outcome = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            yield {"implementation": name, "pass": "all", "metric": "outcome", "outcome": outcome}
        forget_compiled()


def run_tests() -> bool:
    """Run the GPU tests with pytest alone, no plugin and no configuration; return whether they passed."""
    paths = [ROOT, ROOT / "kernels", ROOT / "tests"]
    search = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    command += ["-q", "-W", "ignore::pytest.PytestUnknownMarkWarning", "--maxfail=20", str(ROOT / TESTS)]
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
    env = environment()
    records: list[dict[str, Any]] = []
    path = options.results / "gpu_check" / f"{device_slug('cuda')}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for shape in SHAPES:
            if time.monotonic() - start > LAST_START_S:
                print(f"{shape}: not measured, time is up")
                continue
            tensor = {"shape": list(shape.sizes), "dtype": shape.dtype, "memory": shape.memory, "label": str(shape)}
            for record in measure(shape):
                records.append({"experiment": "gpu_check", **tensor, "num_bytes": shape.num_bytes, **record})
                file.write(json.dumps(records[-1] | {"environment": env}, allow_nan=False) + "\n")
                file.flush()
                _show(records[-1])
    lines, met = summarize(records)
    print("\n".join(lines))
    from initbench_core.presentation.gpu_check_figure import draw

    figure = path.with_suffix(".png")
    draw(records, times_of(records), env, figure)
    print(f"{path}\n{figure}\n{time.monotonic() - start:.0f} s")
    return 0 if sound and met else 1


def _show(record: dict[str, Any]) -> None:
    if "outcome" in record:
        print(f"{record['label']:34} {record['implementation']:21} {record['outcome']}", flush=True)
        return
    gbps = ""
    if record["pass"] in roofline.FUSED_PASSES and record["metric"] == "median_ms":
        gbps = f"{roofline.bandwidth_gbps(record['pass'], record['num_bytes'], record['value']):8.0f} GB/s"
    print(
        f"{record['label']:34} {record['implementation']:21} {record['pass']:8} {record['metric']:9} "
        f"{record['value']:9.4f} ms [{record['low']:.4f}, {record['high']:.4f}] {gbps}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
