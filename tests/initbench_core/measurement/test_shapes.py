"""The shapes: read back from their labels, derived from real models, complete."""

import pytest
import torchvision

from initbench_core.errors import UserError
from initbench_core.measurement.shapes import REAL_MODELS, Shape, awkward, family, model_layers, parse, real


@pytest.mark.parametrize(
    "shape",
    [Shape((4096, 64)), Shape((128, 3), "bfloat16"), Shape((2, 8, 7, 7), "float16", "channels_last")],
    ids=str,
)
def test_a_label_is_read_back(shape: Shape) -> None:
    assert parse(str(shape)) == shape


def test_what_a_label_leaves_out() -> None:
    assert parse("4096x64") == Shape((4096, 64), "float32", "contiguous")


@pytest.mark.parametrize(
    "text",
    ["", "64", "4096x64 int8", "4096x64 float32 channels_last", "0x3", "axb", "2x3x4", "4x4 float32 contiguous 1"],
)
def test_no_shape(text: str) -> None:
    with pytest.raises(UserError, match=r"no shape .*: write NxC") as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_the_family_is_complete_up_to_a_size() -> None:
    shapes = list(family(most_bytes=2**40))
    assert len(shapes) == len(set(shapes)) == 54
    assert max(shape.num_bytes for shape in family()) <= 2**30
    assert {shape.sizes[0] for shape in family("bfloat16")} == {128, 1024, 4096, 65_536, 262_144, 1_048_576}


def test_awkward_shapes_are_awkward() -> None:
    sizes = [shape.sizes for shape in awkward()]
    assert {1, 3, 18, 411} <= {s[1] for s in sizes}
    assert (880_802, 3) in sizes
    assert any(len(s) == 4 and s[2] * s[3] == 49 for s in sizes)


@pytest.mark.parametrize("model", REAL_MODELS)
def test_every_batch_norm_of_a_model_is_counted(model: str) -> None:
    """As many as the network has, each with channels that one of them has."""
    network = torchvision.models.get_model(model)
    channels = [m.num_features for m in network.modules() if hasattr(m, "num_features")]
    layers = model_layers(model, 2)
    assert sum(layers.values()) == len(channels)
    assert sorted(s[1] for s in layers.elements()) == sorted(channels)


def test_resnet50_as_published() -> None:
    """Its stem sees 64 channels of 112 x 112; its last stage's three blocks and their shortcut 2048 of 7 x 7."""
    layers = model_layers("resnet50", 32)
    assert layers[32, 64, 112, 112] == 1
    assert layers[32, 2048, 7, 7] == 4


def test_models_are_pooled() -> None:
    counts = real(2, "bfloat16", "channels_last")
    assert sum(counts.values()) == sum(sum(model_layers(model, 2).values()) for model in REAL_MODELS)
    assert {(shape.dtype, shape.memory) for shape in counts} == {("bfloat16", "channels_last")}


@pytest.mark.parametrize("text", ["1x64", "1x64x1x1"])
def test_one_value_per_channel_has_no_variance(text: str) -> None:
    with pytest.raises(UserError, match=f"shape '{text}' has one value per channel"):
        parse(text)


def test_no_model() -> None:
    with pytest.raises(UserError, match="no model 'resnet51' in torchvision"):
        model_layers("resnet51", 2)
