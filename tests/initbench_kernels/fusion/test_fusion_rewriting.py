"""A module with a rewritten forward is the same module in everything else."""

import collections
import copy
import io
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from fusion_check import check
from torch import Tensor, nn

from initbench_kernels import BatchNormReLU2d, fuse_batch_norm_relu


class Pair(nn.Module):
    """A batch norm and a functional ReLU in methods, with attributes, buffers and state of its own."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("shift", torch.zeros(1))
        self._register_load_state_dict_pre_hook(self.rename)

    def features(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.features(x)) * self.factor + (self.shift + 1)

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 1}

    @staticmethod
    def rename(state: dict[str, Any], prefix: str, *_: object) -> None:
        if prefix + "old" in state:
            state[prefix + "norm.weight"] = state.pop(prefix + "old")


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x) + x)


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))


def test_class_methods_and_state_stay() -> None:
    """Extra state, hooks and keys of state_dict; the class is the module's own, or one below it."""
    model = nn.Sequential(Pair())
    fused = check(model, images(), (1, 0, 0))
    assert isinstance(fused[0], Pair)
    assert type(fused[0]).__name__ == "Pair"
    assert isinstance(fused[0].norm, BatchNormReLU2d)
    state = model.state_dict()
    state["0.old"] = state.pop("0.norm.weight") * 3
    assert str(fused.load_state_dict(state)) == "<All keys matched successfully>"
    assert fused[0].norm.weight.tolist() == [3.0, 3.0, 3.0]


def test_who_calls_the_batch_norm_otherwise_gets_the_plain_one() -> None:
    """A parent that uses a method of a rewritten module, and a caller from outside."""

    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner.features(x) - self.inner(x)

    model = Parent()
    fused = check(model, images(), (1, 0, 0))
    assert fused.inner.features(images()).min() < 0
    torch.testing.assert_close(fused.inner.norm(images()), model.inner.norm(images()))


def test_a_pair_that_a_parent_takes_apart_is_left() -> None:
    """The child alone would be fused: its source has the two together only."""

    class Child(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.relu = nn.BatchNorm2d(3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.norm(x))

    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = Child()

        def forward(self, x: Tensor) -> Tensor:
            return self.child(x) + self.child.norm(x)

    check(Child(), images(), (1, 0, 0))
    check(Parent(), images(), (0, 0, 1))


def test_a_buffer_is_read_when_it_is_used() -> None:
    fused = fuse_batch_norm_relu(Pair())
    assert len(fused.fusion_report.fused) == 1
    fused.shift.fill_(10.0)
    assert fused(images()).min() >= 11.0


def test_an_attribute_that_changes_brings_the_forward_as_written_back() -> None:
    """On the instance, on the class's behalf, and inside a container."""
    model = Pair()
    fused = fuse_batch_norm_relu(copy.deepcopy(model))
    for factor in (0.0, torch.tensor([2.0]), 1.0):
        model.factor = fused.factor = factor
        torch.testing.assert_close(fused(images()), model(images()))

    class Chooses(Pair):
        def __init__(self) -> None:
            super().__init__()
            self.options = {"double": False}

        def forward(self, x: Tensor) -> Tensor:
            out = F.relu(self.norm(x))
            return out * 2 if self.options["double"] else out

    fused = fuse_batch_norm_relu(Chooses())
    once = fused(images())
    fused.options["double"] = True
    torch.testing.assert_close(fused(images()), once * 2)


def test_attributes_set_in_forward_are_set() -> None:
    class Remembers(Pair):
        def forward(self, x: Tensor) -> Tensor:
            self.last = F.relu(self.norm(x))
            return self.last

    fused = fuse_batch_norm_relu(Remembers())
    assert fused(images()) is fused.last


def test_an_argument_changed_in_place_is_changed() -> None:
    class Doubles(Pair):
        def forward(self, x: Tensor) -> Tensor:
            x *= 2
            return F.relu(self.norm(x))

    check(Doubles(), images(), (1, 0, 0))
    x = images()
    fuse_batch_norm_relu(Doubles())(x)
    assert torch.equal(x, images() * 2)


def test_a_read_between_batch_norm_and_relu() -> None:
    """Without a residual the fused call stands where the batch norm stood, so its input may change afterwards."""

    class Zeroes(Pair):
        def forward(self, x: Tensor) -> Tensor:
            out = self.norm(x)
            x.zero_()
            return F.relu(out)

    model = Zeroes()
    fused = fuse_batch_norm_relu(copy.deepcopy(model))
    assert fused.fusion_report.fused == ["norm"]
    torch.testing.assert_close(fused(images()), model(images()))


def test_the_output_keeps_its_type() -> None:
    """torch.fx would make a dict of it; torchvision's segmentation networks return one."""

    class Getter(nn.ModuleDict):
        def __init__(self) -> None:
            super().__init__({"norm": nn.BatchNorm2d(3), "relu": nn.ReLU(), "conv": nn.Conv2d(3, 3, 1)})
            self.wanted = {"conv": "out"}

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            out = OrderedDict()
            for name, module in self.items():
                x = module(x)
                if name in self.wanted:
                    out[self.wanted[name]] = x
            return out

    model = Getter()
    fused = fuse_batch_norm_relu(copy.deepcopy(model))
    assert fused.fusion_report.fused == ["norm"]
    found, wanted = fused(images()), model(images())
    assert type(found) is collections.OrderedDict
    torch.testing.assert_close(found, wanted)


class Adds(nn.Module):
    """What is added comes from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor, residual: Any) -> Tensor:
        return F.relu(self.norm(x) + residual)


class AddsInPlace(Adds):
    def forward(self, x: Tensor, residual: Any) -> Tensor:
        out = self.norm(x)
        out += residual
        return out.relu_()


class AddsItsSize(Adds):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x) + x.size(1))


class AddsALarger(Adds):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(F.adaptive_avg_pool2d(x, 1)) + x)


@pytest.mark.parametrize(
    "residual",
    [0.5, 2, images(1), images(1).double(), images(1)[:, :1], torch.randn(2, 4, 3, 5, 5), torch.tensor(2.0)],
    ids=["float", "int", "tensor", "double", "broadcast", "larger", "scalar"],
)
@pytest.mark.parametrize("kind", [Adds, AddsInPlace])
def test_whatever_is_added(kind: type[nn.Module], residual: Any) -> None:
    """What the fused operator does not take is added as before, with PyTorch's own dtype and shape, or error."""
    if kind is AddsInPlace and getattr(residual, "ndim", 0) > 4:
        with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
            fuse_batch_norm_relu(kind())(images(), residual)
    else:
        check(kind(), images(), (1, 1, 0), residual)


def test_sizes_and_larger_residuals() -> None:
    check(AddsItsSize(), images(), (1, 1, 0))
    check(AddsALarger(), images(), (1, 1, 0))


def test_one_relu_for_many_in_a_sequential() -> None:
    """Each place gets a fused module of its own; the Sequential stays a plain one that can be cut."""
    relu = nn.ReLU()
    model = nn.Sequential(nn.BatchNorm2d(3), relu, nn.Conv2d(3, 3, 1), relu, nn.BatchNorm2d(3), relu)
    fused = check(model, images(), (2, 0, 0))
    assert type(fused) is nn.Sequential
    torch.testing.assert_close(fused[:3](images()), model[:3](images()))


def test_a_sequential_that_a_method_takes_apart() -> None:
    """The forward calls it as a whole and is rewritten; its parts stay what they are for the method."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())

        def raw(self, x: Tensor) -> Tensor:
            return self.layers[0](x)

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    fused = check(Whole(), images(), (1, 0, 0))
    assert fused.raw(images()).min() < 0
    assert type(fused.layers[1]) is nn.ReLU


def test_pickle_keeps_what_was_fused() -> None:
    """As torch.save writes a whole model."""
    fused = fuse_batch_norm_relu(nn.Sequential(Pair(), Block()))
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert [type(m) for m in loaded.modules()][2:3] == [type(fused[0].norm)]
    assert loaded[0].forward.__func__.__code__.co_code == fused[0].forward.__func__.__code__.co_code
    assert type(loaded[1]).forward is not Block.forward
    torch.testing.assert_close(loaded(images()), fused(images()))


def test_a_graph_module_gets_another_graph() -> None:
    """So its own ways to copy and to pickle keep what was fused."""
    model = torch.fx.symbolic_trace(torchvision.models.resnet18(num_classes=3))
    fused = check(model, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), (17, 8, 3))
    assert "(conv1, None)" in copy.deepcopy(fused).code


def test_an_override_of_train_is_not_called() -> None:
    """Fusing looks at both modes without side effects."""

    class Counts(Block):
        calls = 0

        def train(self, mode: bool = True) -> "Counts":
            self.calls += 1
            return super().train(mode)

    fused = fuse_batch_norm_relu(Counts())
    assert (fused.calls, len(fused.fusion_report.fused)) == (0, 1)


def test_a_watched_attribute_compiles() -> None:
    """The comparison of constants makes no break in the graph."""
    fused = fuse_batch_norm_relu(Pair())
    assert len(fused.fusion_report.fused) == 1
    compiled = torch.compile(copy.deepcopy(fused), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images()), fused(images()))


def test_the_downsampling_of_resnet_is_called_what_it_is() -> None:
    report = fuse_batch_norm_relu(torchvision.models.resnet18(num_classes=3)).fusion_report
    assert report.left["layer2.0.downsample.1"] == "it is the residual of bn2"
