"""Residual variants: what each does to the second moment at the start, and that all of them learn."""

import pytest
import torch
from torch import nn

from initbench_core.networks.residual import (
    BATCH_NORM_VARIANCE_PER_BLOCK,
    VARIANTS,
    FixupBlock,
    residual_network,
    second_moment,
)
from tests import tolerances

WIDTH, BLOCKS = 512, 10


@torch.no_grad()
def behind_blocks(variant: str, seed: int = 0) -> list[torch.Tensor]:
    """Outputs [256, WIDTH] of the first layer and of each block, in float64."""
    model = residual_network(variant, 64, WIDTH, BLOCKS, 10, seed=seed).double()
    x = torch.randn(256, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    outputs = []
    for layer in list(model)[: BLOCKS + 1]:
        x = layer(x)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_second_moment_grows_by_its_law(variant: str) -> None:
    moments = [x.square().mean().item() for x in behind_blocks(variant)]
    growth = moments[-1] / second_moment(variant, BLOCKS, moments[0])
    # A relative error per block, for the law that multiplies.
    blocks = BLOCKS if variant == "none" else 1
    assert growth ** (1 / blocks) == pytest.approx(1, rel=tolerances.RESIDUAL_RELATIVE)


def test_batch_norm_adds_a_constant_variance_per_block() -> None:
    variances = [x.var(dim=0).mean().item() for x in behind_blocks("batch_norm")]
    added = (variances[-1] - variances[0]) / BLOCKS
    assert added == pytest.approx(BATCH_NORM_VARIANCE_PER_BLOCK, rel=tolerances.RESIDUAL_RELATIVE)


@pytest.mark.parametrize("variant", ["fixup", "skip_init"])
def test_blocks_start_as_the_identity(variant: str) -> None:
    first, *others = behind_blocks(variant)
    for output in others:
        torch.testing.assert_close(output, first, **tolerances.EXACT)


@pytest.mark.parametrize("blocks", [1, 16])
def test_fixup_scales_by_the_root_of_the_depth(blocks: int) -> None:
    model = residual_network("fixup", 64, WIDTH, blocks, 10, seed=0)
    block, classifier = model[1], model[-1]
    assert isinstance(block, FixupBlock)
    inner, last = (layer for layer in block.branch if isinstance(layer, nn.Linear))
    expected = (2 / WIDTH / blocks) ** 0.5
    assert inner.weight.std().item() == pytest.approx(expected, rel=tolerances.SAMPLE_STD_RELATIVE)
    assert not last.weight.any()
    assert isinstance(classifier, nn.Linear)
    assert not classifier.weight.any()


@pytest.mark.parametrize("variant", ["batch_norm", "fixup", "skip_init"])
def test_every_parameter_comes_to_move(variant: str) -> None:
    """What starts at 0 must not stay there: SkipInit's factors, Fixup's last layers and, behind them, the rest."""
    model = residual_network(variant, 8, 16, 3, 4, seed=0)
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 8, generator=generator), torch.arange(64) % 4
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    names = [name for name, _ in model.named_parameters()]
    still = [name for name, old, new in zip(names, start, model.parameters(), strict=True) if torch.equal(old, new)]
    # A bias in front of BatchNorm has no effect.
    assert all(variant == "batch_norm" and name.endswith("bias") for name in still)


def test_the_seed_is_all_that_the_weights_depend_on() -> None:
    torch.manual_seed(1)
    first = residual_network("fixup", 8, 16, 3, 4, seed=5)
    torch.manual_seed(2)
    second = residual_network("fixup", 8, 16, 3, 4, seed=5)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, **tolerances.EXACT)


def test_an_unknown_variant_is_explained() -> None:
    with pytest.raises(ValueError, match="choose from none, batch_norm, fixup, skip_init"):
        residual_network("layer_norm", 8, 16, 3, 4, seed=0)
