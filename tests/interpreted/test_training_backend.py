"""Training on the Triton kernels, one by one and together, beside training on PyTorch's layers."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from initbench_core.networks.models import mlp
from initbench_core.records.schema import Emission, Measurement
from initbench_core.training.data import Data, Split
from initbench_core.training.seeding import initialize_for_
from initbench_core.training.setting import Setting
from initbench_core.training.together import train_together
from initbench_core.training.train import Recipe, train
from initbench_kernels.batch_norm_relu import function
from tests import tolerances

RECIPE = Recipe(epochs=2, lr=0.1, batch_size=8)


def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.randn(2, 4, generator=generator)[y] + torch.randn(40, 4, generator=generator)
    return Data("blobs", Split(x[:24], y[:24]), Split(x[24:32], y[24:32]), Split(x[32:], y[32:]))


def network(seed: int, setting: Setting) -> nn.Module:
    model = mlp(4, 6, 2, 2, norm="before")
    initialize_for_(setting, model, "kaiming_normal", seed=seed)
    return model


def steady(emissions: Sequence[Emission]) -> dict[str, list[float]]:
    return {m.metric: list(m.values) for m in emissions if isinstance(m, Measurement) and not m.is_time}


@pytest.mark.parametrize("way", ["one_by_one", "together"])
def test_both_backends_train_alike(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    apply = function.BatchNormReLU.apply
    monkeypatch.setattr(function.BatchNormReLU, "apply", lambda *args: calls.append(1) or apply(*args))
    results = {}
    for backend in ("eager", "triton"):
        setting = Setting(backend=backend)
        models = [network(seed, setting) for seed in (0, 1)]
        calls.clear()
        if way == "together":
            trained = train_together(models, data(), RECIPE, seeds=(0, 1), setting=setting)
        else:
            trained = [list(train(m, data(), RECIPE, seed=i, setting=setting)) for i, m in enumerate(models)]
        results[backend] = [steady(emissions) for emissions in trained]
        # Two layers, three batches, two epochs; for each network where they train one by one.
        assert len(calls) == (0 if backend == "eager" else 12 if way == "together" else 24)
    for mine, theirs in zip(results["triton"], results["eager"], strict=True):
        for metric, values in theirs.items():
            assert mine[metric] == pytest.approx(
                values, rel=tolerances.TOGETHER_RELATIVE, abs=tolerances.TOGETHER_ABSOLUTE
            )
