"""fuse_batch_norm_relu leaves a forward as it is where a trace may not stand for it."""

import random
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fusion_check import check
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from initbench_kernels import fuse_batch_norm_relu

FACTOR = 2.0


class Net(nn.Module):
    """Has what the forwards below use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()


class OptionalResidual(Net):
    """As the blocks of DLA (Yu et al. 2018): a stand-in for an argument is never None."""

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if shortcut is None:
            shortcut = x
        out = self.norm(self.conv(x))
        out += shortcut
        return self.relu(out)


class OptionalMask(Net):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x * mask
        return F.relu(self.norm(x))


class OptionalScale(Net):
    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        scale = 2.0 if scale is None else scale
        return F.relu(self.norm(x)) * scale


class DefaultShift(Net):
    def forward(self, x: Tensor, shift: float = 0.1) -> Tensor:
        return F.relu(self.norm(x) + shift)


class SometimesWithoutReLU(Net):
    """Here even an exchange of modules would be wrong."""

    def forward(self, x: Tensor, raw: Any = None) -> Tensor:
        out = self.norm(self.conv(x))
        if raw is not None:
            out = self.relu(out)
        return out


class IsInstance(Net):
    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):
            x = 2 * x
        return F.relu(self.norm(x) + 1 * x)


class OfType(Net):
    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm(x))
        return out * 2 if type(x) is Tensor else out


class HasAttribute(Net):
    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm(x))
        return out * 2 if hasattr(x, "no_such_thing") else out


class InDictionary(Net):
    def forward(self, x: Tensor) -> Tensor:
        seen = {x: 1}
        y = x * 1
        out = F.relu(self.norm(y))
        return out * 2 if y not in seen else out


class Catches(Net):
    def forward(self, x: Tensor) -> Tensor:
        try:
            x = x.no_such_method()
        except AttributeError:
            x = 2 * x
        return F.relu(self.norm(x))


class WithoutGradients(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            out = self.norm(x)
        return F.relu(out + x)


class Autocast(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.conv(x)
        return F.relu(self.norm(out.float()))


class Decorated(Net):
    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x).float()))


class DecoratedHelper(Net):
    @torch.autocast("cpu", dtype=torch.bfloat16)
    def convolve(self, x: Tensor) -> Tensor:
        return self.conv(x).float()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolve(x)))


class GradientsEnabled(Net):
    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm(x))
        return out if torch.is_grad_enabled() else out * 2


class Checkpoints(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(checkpoint(self.conv, x, use_reentrant=False)))


class MakesATensor(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x)) + torch.ones(1)


class ReadsAGlobal(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x)) * FACTOR


class KeepsATensor(Net):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.ones(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x)) * (self.factor + 1)


class HasAProperty(Net):
    @property
    def factor(self) -> float:
        return 2.0 if torch.is_grad_enabled() else 1.0

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x)) * self.factor


class Prepares(nn.Module):
    def prepare(self, x: Any) -> Tensor:
        return 2 * x if isinstance(x, Tensor) else x


class Superior(Net):
    def prepare(self, x: Any) -> Tensor:
        return 2 * x if isinstance(x, Tensor) else x


class AsksItsBase(Superior):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(super().prepare(x)))


def double_a_tensor(x: Any) -> Any:
    return 2 * x if isinstance(x, Tensor) else x


class AsksAFunction(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(double_a_tensor(x)))


class Appends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, found: list[Tensor]) -> None:
        found.append(self.conv(found[-1]))


class HandsOutAList(Net):
    """What a module does to a list that it is given is not in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.step = Appends()

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        self.step(found)
        return F.relu(self.norm(found[-1]))


class Lends(Net):
    """A method of another module is its own affair."""

    def __init__(self) -> None:
        super().__init__()
        self.other = Prepares()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.other.prepare(x)))


class ChangesAView(Net):
    """The residual becomes zero, if under another name, before the ReLU is applied."""

    def forward(self, x: Tensor) -> Tensor:
        residual = x * 1
        view = residual.view(-1)
        out = self.norm(x) + residual
        view.zero_()
        return F.relu(out)


class ChangesInATransposed(Net):
    """The same by `*=`, on an attribute."""

    def forward(self, x: Tensor) -> Tensor:
        residual = x * 1
        view = residual.mT
        out = self.norm(x) + residual
        view *= 0
        return F.relu(out)


class ReadsStatistics(Net):
    """Fused with the addition, the batch norm would run after its statistics are read."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(x)
        mean = self.norm.running_mean.clone()
        return F.relu(out + x) + mean.view(-1, 1, 1)


REFUSED = [
    *(OptionalResidual, OptionalMask, OptionalScale, DefaultShift, SometimesWithoutReLU),
    *(IsInstance, OfType, HasAttribute, InDictionary, Catches, AsksItsBase, AsksAFunction, Lends),
    *(WithoutGradients, Autocast, Decorated, DecoratedHelper, GradientsEnabled, Checkpoints),
    *(MakesATensor, ReadsAGlobal, KeepsATensor, HasAProperty, HandsOutAList),
    *(ChangesAView, ChangesInATransposed, ReadsStatistics),
]


@pytest.mark.parametrize("kind", REFUSED)
def test_left_as_it_is(kind: type[nn.Module]) -> None:
    """Nothing is fused, in no module; results are the same with and without gradients."""
    torch.manual_seed(0)
    model = kind()
    fused = check(model, torch.randn(4, 3, 5, 5), (0, 0, 1))
    assert [type(m) for m in fused.modules()] == [type(m) for m in model.modules()]
    x = torch.randn(4, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(fused(x.clone()), model(x.clone()))


def test_optional_arguments_may_be_given() -> None:
    """Not only the default is right."""
    torch.manual_seed(0)
    x, other = torch.randn(2, 4, 3, 5, 5)
    check(OptionalResidual(), x, (0, 0, 1), other)
    check(OptionalMask(), x, (0, 0, 1), other)
    check(SometimesWithoutReLU(), x, (0, 0, 1), True)


def test_reasons_are_plain() -> None:
    """The report names the piece of code that a trace would lose or freeze."""

    def reason(model: nn.Module) -> str:
        (text,) = fuse_batch_norm_relu(model).fusion_report.left.values()
        return str(text)

    assert "tracing may lose or freeze `shortcut is None`" in reason(OptionalResidual())
    assert "`with torch.no_grad()`" in reason(WithoutGradients())
    assert "`isinstance(x, Tensor)` in double_a_tensor" in reason(AsksAFunction())
    assert "changed in place" in reason(ChangesAView())
    assert reason(nn.BatchNorm2d(3)) == "no forward calls it"


def test_random_branches_stay_random() -> None:
    class Drops(Net):
        def forward(self, x: Tensor) -> Tensor:
            return x if random.random() < 0.5 else F.relu(self.norm(x))

    x = torch.randn(4, 3, 5, 5)
    for seed in range(4):
        random.seed(seed)
        fused = fuse_batch_norm_relu(Drops())
        assert fused.fusion_report.fused == []
        assert len({fused(x) is x for _ in range(20)}) == 2


def test_another_forward_of_an_instance_is_respected() -> None:
    class Plain(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.norm(x))

    model = Plain()
    model.forward = types.MethodType(lambda self, x: self.norm(x), model)  # type: ignore[method-assign]
    fused = fuse_batch_norm_relu(model)
    assert fused.fusion_report.fused == []
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(fused(x), model(x))


def test_source_that_is_not_at_hand() -> None:
    """Code made at run time cannot be read, so it is not judged."""
    namespace: dict[str, Any] = {"Net": Net, "F": F}
    exec("class Made(Net):\n    def forward(self, x):\n        return F.relu(self.norm(x))\n", namespace)
    fused = check(namespace["Made"](), torch.randn(4, 3, 5, 5), (0, 0, 1))
    assert "is not at hand" in fused.fusion_report.left["norm"]


def test_a_sequential_that_is_taken_apart_is_left() -> None:
    """Elsewhere its forward decides by its data, and this one calls its Sequential in pieces."""

    class TakesApart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Sequential(nn.Conv2d(3, 3, 1)))

        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 1e9 else self.layers[2](self.layers[0](x))

    check(TakesApart(), torch.randn(4, 3, 5, 5), (0, 0, 1))
