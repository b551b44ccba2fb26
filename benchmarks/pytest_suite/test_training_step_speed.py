"""One training step of a small network, implementation by implementation of its BatchNorm+ReLU."""

from collections.abc import Callable, Iterator

import pytest
import torch

from initbench_core.experiments.training_step_speed import (
    CLASSES,
    NETWORKS,
    RELATIVE_ERROR,
    gradient,
    training_step,
)
from initbench_core.measurement.roofline import Passes
from initbench_core.networks.implementations import BASELINE, IMPLEMENTATIONS, available, forget_compiled
from initbench_core.networks.replaced import replaced

# Over the parameters: read by the forward, the backward pass and the step, their gradients read too; gradients and
# parameters written. Activations come on top, so that a step's bandwidth is a lower bound.
STEP = Passes(4, 2)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Each network is compiled for itself."""
    yield
    forget_compiled()


@pytest.mark.parametrize("name", list(IMPLEMENTATIONS))
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_training_step(network: str, name: str, timed: Callable[..., None], device: str) -> None:
    row = IMPLEMENTATIONS[name]
    if (obstacle := available(name, device)) is not None:
        pytest.skip(f"{name}: {obstacle}")
    if row.compiled and network != "mlp":
        pytest.skip(f"{name}: compiled for the mlp only")
    torch.manual_seed(0)
    model, sizes = NETWORKS[network]()
    model.to(device)
    x, target = torch.randn(sizes, device=device), torch.randint(CLASSES, sizes[:1], device=device)
    if (refused := row.refuses(x)) is not None:
        pytest.skip(f"{name}: {refused}")
    wanted, mine = gradient(replaced(model, IMPLEMENTATIONS[BASELINE]), x, target), replaced(model, row)
    assert (gradient(mine, x, target) - wanted).norm() <= RELATIVE_ERROR * wanted.norm()
    num_bytes = sum(p.numel() * p.itemsize for p in model.parameters())
    timed(
        training_step(mine, x, target),
        group=f"training step, {network}",
        dtype="float32",
        num_bytes=num_bytes,
        passes=STEP,
    )
