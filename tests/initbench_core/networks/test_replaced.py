"""A whole model with another BatchNorm+ReLU computes the same, and the model at hand stays as it is."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from initbench_core.experiments.training_step_speed import NETWORKS, RELATIVE_ERROR, gradient, training_step
from initbench_core.networks.implementations import IMPLEMENTATIONS, eager
from initbench_core.networks.replaced import replaced
from initbench_kernels import BatchNormReLU2d


def data(sizes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sizes, generator=generator), torch.randint(10, sizes[:1], generator=generator)


@pytest.mark.parametrize("name", ["eager_inplace", "fused_eager"])
@pytest.mark.parametrize("network", list(NETWORKS))
def test_gradients_are_the_baselines(network: str, name: str) -> None:
    torch.manual_seed(0)
    model, sizes = NETWORKS[network]()
    x, target = data((4, *sizes[1:]))
    wanted = gradient(replaced(model, IMPLEMENTATIONS["eager"]), x, target)
    found = gradient(replaced(model, IMPLEMENTATIONS[name]), x, target)
    assert (found - wanted).norm() <= RELATIVE_ERROR * wanted.norm()


def test_a_peers_function_is_called_where_there_is_no_residual() -> None:
    """resnet18 has 9 batch norms behind which a ReLU comes at once, and 8 that end in an addition."""
    calls = []

    def peer(*arguments: object) -> torch.Tensor:
        calls.append(arguments)
        return eager(*arguments)

    row = dataclasses.replace(IMPLEMENTATIONS["eager"], name="peer", function=peer)
    torch.manual_seed(0)
    model = resnet18(num_classes=10)
    x, target = data((2, 3, 64, 64))
    wanted = replaced(model, IMPLEMENTATIONS["eager"])
    found = replaced(model, row)
    difference = gradient(found, x, target) - gradient(wanted, x, target)
    assert difference.norm() <= RELATIVE_ERROR * gradient(wanted, x, target).norm()
    assert len(calls) == 9
    counts = [b for n, b in found.named_buffers() if n.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {1}


def test_the_model_at_hand_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    before = copy.deepcopy(model.state_dict())
    fused = replaced(model, IMPLEMENTATIONS["fused_eager"])
    assert any(isinstance(m, BatchNormReLU2d) and m.backend == "eager" for m in fused.modules())
    fused(torch.randn(2, 3, 4, 4))
    assert not any(isinstance(m, BatchNormReLU2d) for m in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_step_trains() -> None:
    torch.manual_seed(0)
    model, sizes = NETWORKS["mlp"]()
    step, x_target = training_step(model, *data(sizes)), data(sizes)
    before = gradient(model, *x_target)[0]
    for _ in range(5):
        step()
    assert gradient(model, *x_target)[0] < before
