"""Every BatchNorm+ReLU that the suite compares, one decorated function each.

All take the arguments of `F.batch_norm` in its order (x, running_mean, running_var, weight, bias, training, momentum,
eps) and return the ReLU of its result, recorded by autograd: x [N, C, ...] of any float dtype, the others [C]. None
counts batches: `num_batches_tracked` belongs to the module around it.

To compare another implementation is to add its function here: the speed experiments, the checks by hand, asv and
pytest-benchmark find it in `IMPLEMENTATIONS`.
"""

import functools
import importlib
import logging
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor

from initbench_core.errors import ConfigError
from initbench_core.networks import peers
from initbench_kernels.backend import resolve_backend
from initbench_kernels.batch_norm_relu import batch_norm_relu

BASELINE = "eager"


@dataclass(frozen=True)
class Implementation:
    """One row of the comparison.

    Attributes:
        name: its key in `IMPLEMENTATIONS`.
        title: what it is, for a legend.
        function: computes it; see the module.
        missing: why this machine cannot run it on a device, or None where it can.
        refuses: why it does not take a tensor x, or None where it does.
        compiled: whether its first call for a shape compiles with torch.compile.
    """

    name: str
    title: str
    function: Callable[..., Tensor]
    missing: Callable[[torch.device], str | None]
    refuses: Callable[[Tensor], str | None]
    compiled: bool

    def obstacle(self, x: Tensor) -> str | None:
        """Return why it cannot take `x` here, or None where it can."""
        return self.missing(x.device) or self.refuses(x)


IMPLEMENTATIONS: dict[str, Implementation] = {}


def implementation(name: str) -> Implementation:
    """Return the implementation of this name.

    Raises:
        ConfigError: there is none; the message lists what there is.
    """
    if name not in IMPLEMENTATIONS:
        raise ConfigError(f"no implementation {name!r}: choose from {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name]


def available(name: str, device: torch.device | str) -> str | None:
    """Return why `name` cannot run on a device here ("not installed: timm"), or None where it can.

    Raises:
        ConfigError: there is no implementation of this name.
    """
    row, device = implementation(name), torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device here"
    return row.missing(device)


def _everywhere(_: torch.device) -> str | None:
    return None


def _takes_all(_: Tensor) -> str | None:
    return None


def compared(
    title: str,
    *,
    missing: Callable[[torch.device], str | None] = _everywhere,
    refuses: Callable[[Tensor], str | None] = _takes_all,
    compiled: bool = False,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Add the decorated function to the comparison, under its own name; arguments as in `Implementation`."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = function.__name__
        IMPLEMENTATIONS[name] = Implementation(name, title, function, missing, refuses, compiled)
        return function

    return register


@functools.cache
def _not_importable(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        return f"not installed: {error.name}"
    except (
        Exception
    ) as error:  # a peer's own trouble, with this machine or this torch, is a reason and not ours to raise
        return f"{module} cannot be imported: {type(error).__name__}"
    return None


def _with(module: str, *, device_type: str | None = None) -> Callable[[torch.device], str | None]:
    def missing(device: torch.device) -> str | None:
        if device_type not in (None, device.type):
            return f"needs a {device_type} device"
        return _not_importable(module)

    return missing


def _compiler_missing(device: torch.device) -> str | None:
    """What torch.compile lacks: on the CPU it builds C++ against Python's headers, on CUDA Triton's launchers in C."""
    cpp, c = [os.environ.get("CXX", "g++")], [os.environ.get("CC", "gcc"), "clang"]
    compilers = cpp if device.type == "cpu" else c
    if not any(map(shutil.which, compilers)):
        return f"torch.compile needs a compiler: {' or '.join(compilers)} is not installed"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "torch.compile needs Python's headers: Python.h is not installed"
    return None if device.type == "cpu" else _not_importable("triton")


def _compiler_missing_off_cuda(device: torch.device) -> str | None:
    return _compiler_missing(device) if device.type == "cuda" else "needs a cuda device"


def _triton_missing(device: torch.device) -> str | None:
    try:
        resolve_backend("triton", device)
    except RuntimeError as error:
        return str(error).partition(": ")[2]
    return None


# Without CUDA graphs: what is timed is the device, not the launches.
MODES = {"torch_compile": "default", "torch_compile_max_autotune": "max-autotune-no-cudagraphs"}


def compile_mode(row: Implementation) -> str:
    """Return the mode of torch.compile of an implementation that is compiled."""
    return MODES[row.name]


@functools.cache
def _compiled(mode: str) -> Callable[..., Tensor]:
    return torch.compile(eager, fullgraph=True, dynamic=False, mode=mode)


def forget_compiled() -> None:
    """Drop what torch.compile has built: it stops after a few shapes, and checks one shape's guards for all others."""
    _compiled.cache_clear()
    torch._dynamo.reset()


@contextmanager
def compiling_anew() -> Iterator[None]:
    """Compile without torch's caches on disk, so that the time it takes is the time it takes anyone the first time."""
    with warnings.catch_warnings(), torch._inductor.config.patch(force_disable_caches=True):
        # torch remarks that one of its caches is off.
        warnings.simplefilter("ignore")
        yield


@functools.cache
def start_compiler(device: str) -> None:
    """Let torch.compile start up, once in a process, so that no shape's compilation pays for it."""
    # It looks for a CUDA toolkit wherever it compiles, and warns in the middle of a run that there is no GPU to it.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    x, ones = torch.ones(2, 1, device=device), torch.ones(1, device=device)
    with compiling_anew():
        _compiled("default")(x.requires_grad_(), ones, ones, ones, ones, True, 0.1, 1e-5).sum().backward()
    forget_compiled()


@compared("nn.BatchNorm, nn.ReLU")
def eager(*arguments: Any) -> Tensor:
    """What nn.BatchNorm followed by nn.ReLU computes: the baseline."""
    return F.relu(F.batch_norm(*arguments))


@compared("nn.BatchNorm, nn.ReLU(inplace)")
def eager_inplace(*arguments: Any) -> Tensor:
    """The same with the ReLU in place."""
    return F.relu(F.batch_norm(*arguments), inplace=True)


@compared("torch.compile", missing=_compiler_missing, compiled=True)
def torch_compile(*arguments: Any) -> Tensor:
    """The baseline under torch.compile, for one shape."""
    return _compiled(MODES["torch_compile"])(*arguments)


@compared("torch.compile, max-autotune", missing=_compiler_missing_off_cuda, compiled=True)
def torch_compile_max_autotune(*arguments: Any) -> Tensor:
    """The same, with Triton's configurations tried out."""
    return _compiled(MODES["torch_compile_max_autotune"])(*arguments)


@compared("initbench, eager backend")
def fused_eager(*arguments: Any) -> Tensor:
    """This project's operator on its PyTorch backend."""
    return batch_norm_relu(*arguments, backend="eager")


@compared("initbench, Triton backend", missing=_triton_missing)
def fused_triton(*arguments: Any) -> Tensor:
    """This project's operator on its Triton kernels."""
    return batch_norm_relu(*arguments, backend="triton")


@compared("FlagGems", missing=_with("flag_gems", device_type="cuda"))
def flag_gems(*arguments: Any) -> Tensor:
    """FlagGems' batch norm and ReLU, Triton kernels, in a row."""
    return peers.FlagGemsBatchNormReLU.apply(*arguments)


@compared("timm BatchNormAct2d", missing=_with("timm"), refuses=peers.refuses_but_images)
def timm(*arguments: Any) -> Tensor:
    """The norm-and-activation layer of timm's networks."""
    return peers.timm_batch_norm_act(*arguments)


@compared(
    "apex groupbn", missing=_with("apex.contrib.groupbn", device_type="cuda"), refuses=peers.refuses_but_half_nhwc
)
def apex(*arguments: Any) -> Tensor:
    """NVIDIA apex's one-launch batch norm with ReLU."""
    return peers.apex_batch_norm_relu(*arguments)
