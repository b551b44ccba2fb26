"""One command for whoever has a GPU: is the fused operator right, and how fast is it beside what else there is?

    make gpu-check
    PYTHONPATH=.:kernels python -m initbench_core.checks.gpu       # where nothing can be installed

Runs the GPU tests against float64, then times every pass of every implementation over SHAPES, with the L2 cache
flushed, next to a copy of the same bytes in the same run. Writes one JSON record per number to
results/gpu_check/<device>.jsonl and a figure to results/gpu_check/<device>.png; made to take under 8 minutes.
Exit status: 0 all targets met, 1 a test failed or a target was missed, 2 the machine cannot run it.
"""

import argparse
import functools
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from initbench_core.checks.gpu_targets import summarize, times_of
from initbench_core.environment import device_slug
from initbench_core.measurement import roofline
from initbench_core.measurement.timing import cuda_times_ms, cuda_wall_ms, estimate
from initbench_kernels import BatchNormReLU1d, BatchNormReLU2d

ROOT = Path(__file__).parents[2]
TESTS = "tests/initbench_kernels/batch_norm_relu/test_batch_norm_relu_gpu.py"
# A shape is begun only before this time, in seconds since the start; the rest is reported as not measured.
LAST_START_S = 420


@dataclass(frozen=True)
class Shape:
    """One tensor to normalize.

    Attributes:
        sizes: [N, C] or [N, C, H, W].
        dtype: "bfloat16" or "float32".
        memory: "contiguous" or "channels_last".
        autotune: whether to spend the time on max-autotune as well.
    """

    sizes: tuple[int, ...]
    dtype: str = "bfloat16"
    memory: str = "contiguous"
    autotune: bool = False

    @property
    def num_bytes(self) -> int:
        """Size of the tensor."""
        return torch.Size(self.sizes).numel() * getattr(torch, self.dtype).itemsize

    def __str__(self) -> str:
        """Return a short label."""
        memory = "" if self.memory == "contiguous" else " nhwc"
        return f"{'x'.join(map(str, self.sizes))} {self.dtype}{memory}"


# The first three hold equal bytes; 3 channels against 256 is one of the targets. Real shapes are resnet50's at 128.
SHAPES = (
    Shape((262_144, 256), autotune=True),
    Shape((22_369_621, 3), autotune=True),
    Shape((65_536, 1024)),
    Shape((128, 128)),
    Shape((128, 64, 112, 112), memory="channels_last", autotune=True),
    Shape((128, 64, 112, 112), autotune=True),
    Shape((128, 2048, 7, 7), autotune=True),
    Shape((128, 2048, 7, 7), memory="channels_last"),
    Shape((128, 256, 56, 56)),
    Shape((128, 256, 56, 56), memory="channels_last"),
    Shape((128, 512, 28, 28)),
    Shape((128, 1024, 14, 14)),
    Shape((65_536, 64)),
    Shape((65_536, 411)),
    Shape((4096, 512)),
    Shape((1_048_577, 16)),
    Shape((880_802, 3), "float32"),
    Shape((65_536, 1024), "float32"),
    Shape((32, 256, 14, 14), "float32"),
)


def _pair(channels: int, dims: int, **relu: Any) -> nn.Module:
    norm = nn.BatchNorm1d if dims == 2 else nn.BatchNorm2d
    return nn.Sequential(norm(channels), nn.ReLU(**relu))


def _compiled(channels: int, dims: int, mode: str) -> nn.Module:
    return cast(nn.Module, torch.compile(_pair(channels, dims), fullgraph=True, dynamic=False, mode=mode))


# Each takes (channels, dims). max-autotune without CUDA graphs: what is timed is the device, not the launches.
IMPLEMENTATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "fused": lambda channels, dims: (BatchNormReLU1d if dims == 2 else BatchNormReLU2d)(channels),
    "eager": _pair,
    "eager_inplace": functools.partial(_pair, inplace=True),
    "compile_default": functools.partial(_compiled, mode="default"),
    "compile_max_autotune": functools.partial(_compiled, mode="max-autotune-no-cudagraphs"),
}


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


def tensors(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return x (which wants a gradient) and dy."""
    generator = torch.Generator("cuda").manual_seed(0)
    memory = torch.channels_last if shape.memory == "channels_last" else torch.contiguous_format
    x, dy = (
        torch.randn(shape.sizes, generator=generator, device="cuda")
        .to(getattr(torch, shape.dtype))
        .contiguous(memory_format=memory)
        for _ in range(2)
    )
    return x.requires_grad_(), dy


def passes_of(name: str, module: nn.Module, x: Tensor, dy: Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the passes to time; a gradient is returned, not accumulated."""
    leaves = [x, *module.parameters()]

    def fwd_bwd() -> object:
        return torch.autograd.grad(module(x), leaves, dy)

    module.train()
    yield "fwd", lambda: module(x)
    yield "fwd_bwd", fwd_bwd
    if not name.startswith("compile"):
        # A compiled graph frees its buffers as it runs: its backward cannot be repeated alone.
        y = module(x)
        yield "bwd", lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)
    module.eval()
    yield "eval", torch.no_grad()(lambda: module(x))


def check(module: nn.Module, x: Tensor) -> None:
    """Refuse to time a wrong result: training output against eager float32, by the largest error.

    Raises:
        RuntimeError: it is further off than half precision explains.
    """
    with torch.no_grad():
        wanted = nn.functional.batch_norm(x.float(), None, None, training=True).relu_()
        error = (module.train()(x).float() - wanted).abs().max() / wanted.abs().max()
    if not float(error) <= 2.0**-7:
        raise RuntimeError(f"output is off by {float(error):.2e} of its maximum")


def measure(shape: Shape) -> Iterator[dict[str, Any]]:
    """Yield the records of one shape; what fails is a record with an outcome instead of a value."""
    x, dy = tensors(shape)
    target = torch.empty_like(x)

    def record(implementation: str, pass_name: str, metric: str, samples: list[float]) -> dict[str, Any]:
        e = estimate(samples)
        values = {"value": e.median, "low": e.low, "high": e.high, "samples": e.samples}
        return {"implementation": implementation, "pass": pass_name, "metric": metric, "unit": "ms", **values}

    yield record("copy", "copy", "median_ms", cuda_times_ms(lambda: target.copy_(x.detach())))
    for name, make in IMPLEMENTATIONS.items():
        if name == "compile_max_autotune" and not shape.autotune:
            continue
        try:
            module = make(shape.sizes[1], len(shape.sizes)).cuda()
            if not name.startswith("compile"):
                # For the compiled ones it would be a third compilation per shape; PyTorch tests those itself.
                check(module, x)
            for pass_name, call in passes_of(name, module, x, dy):
                yield record(name, pass_name, "median_ms", cuda_times_ms(call))
                if pass_name == "fwd_bwd" and shape.num_bytes < 2**20:
                    yield record(name, pass_name, "wall_ms", cuda_wall_ms(call))
        except Exception as error:  # one implementation's failure must not lose the others' numbers
            outcome = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            yield {"implementation": name, "pass": "all", "metric": "outcome", "outcome": outcome}
        torch._dynamo.reset()


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
