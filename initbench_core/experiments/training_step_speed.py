"""A training step of whole networks with each BatchNorm+ReLU.

Question: what is left of an operator's speed-up in a training step, where convolutions and matrix products take most
of the time?

Networks: an MLP (784-512-512-512-10, batch 128), a CNN of four convolutions (batch 32 of 3x32x32) and torchvision's
resnet18 (batch 8 of 3x64x64), each with its BatchNorm+ReLU replaced; torch.compile takes the whole network. A step is
zero_grad, forward, cross entropy, backward and one step of SGD, all from Python. The first step's loss and gradients
are held against eager PyTorch's; who is off is not timed. Then all take turns, in whole calls on the host's clock (a
GPU's work included), after warm-up and compilation. Speed-ups are medians of the ratios within rounds with 95%
bootstrap intervals; one that includes 1 is called parity.

Expected: on the CPU the fused operator gains little (it saves one pass over the activations beside convolutions) and
loses nothing. The peak of a step stays where it is: for the backward pass eager PyTorch, too, keeps an operator's input
and result alone, and the result is what the next layer keeps of its input anyway; what the fused operator saves is a
tensor that lives within the operator, while the step's peak is elsewhere (in mlp and resnet18 most of it is gradients
of weights). On CUDA it gains where eager PyTorch is bound by launches and memory.
Source: the comparison is this project's own; ResNet is He et al. 2016.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from initbench_core.errors import choose
from initbench_core.measurement.memory import peak_bytes
from initbench_core.measurement.timing import default_algorithms, paired_times_ms
from initbench_core.networks.implementations import (
    BASELINE,
    IMPLEMENTATIONS,
    available,
    compiling_anew,
    forget_compiled,
    start_compiler,
)
from initbench_core.networks.replaced import replaced
from initbench_core.presentation import speed, speed_plots
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Emission, Note, Record, scalar
from initbench_core.training.setting import Setting

TIMED = True
CLASSES = 10
# Gradients of all parameters as one vector, against eager's: float32 in another order, through up to 20 layers.
RELATIVE_ERROR = 1e-3

PASS = "step"


@dataclass(frozen=True)
class Config:
    """One network, with all implementations."""

    network: str
    compile: bool  # whether torch.compile takes part
    seed: int = 0


def grid(setting: Setting) -> Iterator[Config]:
    """Every network; torch.compile at the small ones only where minutes count."""
    if setting.profile == "smoke":
        yield Config("mlp", False)
        return
    for network in NETWORKS:
        yield Config(network, setting.profile == "full" or network == "mlp")


def _mlp() -> tuple[nn.Module, tuple[int, ...]]:
    widths = (784, 512, 512, 512)
    hidden = [
        layer
        for inputs, outputs in itertools.pairwise(widths)
        for layer in (nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU())
    ]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], CLASSES)), (128, 784)


def _cnn() -> tuple[nn.Module, tuple[int, ...]]:
    channels = (3, 32, 32, 64, 64)
    layers = [
        layer
        for i, (inputs, outputs) in enumerate(itertools.pairwise(channels))
        for layer in (
            nn.Conv2d(inputs, outputs, 3, stride=1 + i % 2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)), (32, 3, 32, 32)


def _resnet18() -> tuple[nn.Module, tuple[int, ...]]:
    from torchvision.models import resnet18

    return resnet18(num_classes=CLASSES), (8, 3, 64, 64)


# Each builds a network and says what a batch of its inputs looks like.
NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "resnet18": _resnet18,
}


def run(config: Config, setting: Setting) -> Iterator[Emission]:
    """Check and time a step with every implementation."""
    with default_algorithms():
        yield from list(_measure(config, setting))


def _measure(config: Config, setting: Setting) -> Iterator[Emission]:
    network, sizes = choose("network", config.network, NETWORKS)()
    network.to(setting.device)
    x = torch.randn(sizes, device=setting.device)
    target = torch.randint(CLASSES, sizes[:1], device=setting.device)
    wanted = gradient(replaced(network, IMPLEMENTATIONS[BASELINE]), x, target)
    steps: dict[str, Callable[[], object]] = {}
    first_call: dict[str, float] = {}
    for name, row in IMPLEMENTATIONS.items():
        obstacle = available(name, setting.device)
        if obstacle is None and row.compiled and not config.compile:
            obstacle = "torch.compile takes part at some networks only"
        if obstacle is None:
            if row.compiled:
                start_compiler(setting.device)
            try:
                with compiling_anew():
                    model, started = replaced(network, row), time.perf_counter()
                    error = float((gradient(model, x, target) - wanted).norm() / wanted.norm())
                    first_call[name] = time.perf_counter() - started
                if not error <= RELATIVE_ERROR:
                    obstacle = f"its first gradient is off by {error:.2g}"
            except Exception as failure:  # whatever befalls one must not lose the others
                obstacle = (str(failure) or type(failure).__name__).splitlines()[0]
        if obstacle is None:
            steps[name] = training_step(model, x, target)
        else:
            first_call.pop(name, None)
            yield Note(f"{name} is not measured: {obstacle}")
    rounds = setting.pick(smoke=2, quick=15, full=50)
    samples = paired_times_ms(*steps.values(), rounds=rounds, min_ms=setting.pick(smoke=0.0, quick=10.0, full=20.0))
    yield speed.measurement(PASS, dict(zip(steps, samples.tolist(), strict=True)))
    watched = [n for n in steps if setting.device == "cuda" or not IMPLEMENTATIONS[n].compiled]
    yield speed.by_implementation("peak", "bytes", {n: peak_bytes(steps[n], setting.device) for n in watched})
    yield speed.by_implementation("first_call", "s", first_call)
    yield scalar("threads", "1", torch.get_num_threads())
    forget_compiled()


def gradient(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return loss and gradients of all parameters as one vector; the model keeps no gradient."""
    parameters = [p for _, p in sorted(model.named_parameters())]
    loss = F.cross_entropy(model(x), target)
    gradients = torch.autograd.grad(loss, parameters)
    return torch.cat([loss.detach().reshape(1), *(g.flatten() for g in gradients)])


def training_step(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), target).backward()
        optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize()

    return step


def _rows(records: Sequence[Record]) -> pd.DataFrame:
    frame = tidy(records)
    frame = frame.assign(case=frame["network"])
    rows = speed.speedups(frame[frame["metric"] == "time"], BASELINE)
    for metric, column, unit in (("peak", "peak, MB", 1e6), ("first_call", "first call, s", 1)):
        values = frame[frame["metric"] == metric].set_index(["case", "implementation"])["value"]
        keys = zip(rows["case"], rows["implementation"], strict=True)
        rows[column] = pd.Series([values.get(key, float("nan")) for key in keys]) / unit
    return rows


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row per network and implementation."""
    return _rows(records).drop(columns=speed.SAMPLES).rename(columns={"case": "network"})


def findings(records: Sequence[Record]) -> Iterator[str]:
    """Each implementation's speed-up by network, this project's first, and what was not measured."""
    rows = table(records)
    names = sorted(IMPLEMENTATIONS, key=lambda name: not name.startswith("fused"))
    for name in names:
        own = rows[(rows["implementation"] == name) & rows["speed-up"].notna()]
        if len(own):
            parts = [f"{row['network']} {speed.ratio(row)}" for _, row in own.iterrows()]
            title = IMPLEMENTATIONS[name].title
            yield f"A training step with {title}, times as fast as with eager PyTorch: {'; '.join(parts)}."
        if len(own) and name.startswith("fused"):
            yield f"Of {IMPLEMENTATIONS[name].title} it was expected {_judged(own, rows)}."
    reasons = dict.fromkeys(note.replace(" is not measured", "") for record in records for note in record.notes)
    yield f"Not measured: {'; '.join(reasons) or 'nothing'}."


def _judged(own: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Hold an implementation's rows against the expectation, which is the same for its peak and eager's."""
    told = {"slower": "not so, for it is slower", "parity": "parity", "faster": "and it is faster"}
    networks = {verdict: ", ".join(of["network"]) for verdict, of in own.groupby("verdict")}
    speeds = [f"{words} at {networks[verdict]}" for verdict, words in told.items() if verdict in networks]
    eager = rows[rows["implementation"] == BASELINE].set_index("network")["peak, MB"]
    peaks = [f"{row['network']} {row['peak, MB'] / eager[row['network']]:.3f}" for _, row in own.iterrows()]
    return f"that it loses nothing: {'; '.join(speeds)}. And that its peak is eager's: {', '.join(peaks)} times that"


def figures(records: Sequence[Record]) -> Mapping[str, Figure]:
    """The speed-ups by network."""
    titles = {name: row.title for name, row in IMPLEMENTATIONS.items()}
    title = "Training step: times as fast as eager PyTorch, 95% intervals"
    return {"speedup": speed_plots.speedups(_rows(records), titles, title=title)}
