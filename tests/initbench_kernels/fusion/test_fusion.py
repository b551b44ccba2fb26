"""fuse_batch_norm_relu: same numbers, same state_dict, and only what may be fused."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from fusion_check import check
from torch import Tensor, nn

from initbench_kernels import BatchNormReLU1d, BatchNormReLU2d, fuse_batch_norm_relu

# Fused and left batch norms, counted by hand from torchvision's sources: (fused, of these with a residual, left).
# resnet: each block's last batch norm takes the addition along, and the downsampling's is its residual.
# densenet121: 1 + 58 layers x 2 + 3 transitions + the last, which F.relu follows. mobilenet_v2: ReLU6.
TORCHVISION = {
    "resnet18": (17, 8, 3),
    "resnet50": (49, 16, 4),
    "vgg11_bn": (8, 0, 0),
    "mobilenet_v2": (0, 0, 52),
    "densenet121": (121, 0, 0),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    """Outputs, gradients and running statistics of real models, in training and evaluation."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=3)
    if name == "vgg11_bn":
        # Its own classifier holds 120 million parameters, no batch norm, and dropout.
        model.classifier = nn.Linear(512 * 7 * 7, 3)
    if name == "mobilenet_v2":
        model.classifier[0].p = 0.0
    fused = check(model, torch.randn(2, 3, 32, 32), TORCHVISION[name])
    assert type(fused).__name__ == type(model).__name__
    if name == "mobilenet_v2":
        assert any("ReLU6" in reason for reason in fused.fusion_report.left.values())


class Functional(nn.Module):
    """Every way to write ReLU, and one module shared by two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(6))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.layers[0](x)))
        x = self.norms[1](self.layers[1](x)).relu()
        x = torch.relu(self.norms[2](self.layers[2](x)))
        x = self.relu(self.norms[3](self.layers[3](x)))
        x = self.relu(self.norms[4](self.layers[4](x)))
        return F.relu(self.norms[5](self.layers[5](x)), inplace=True)


def test_functional_and_shared_relu() -> None:
    """All six are fused."""
    check(Functional(), torch.randn(8, 4), (6, 0, 0))


def test_sequential_stays_itself() -> None:
    """Neighbours in a Sequential are swapped; nothing else about it changes."""
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2), nn.BatchNorm1d(2))
    fused = check(model, torch.randn(8, 4), (1, 0, 1))
    assert type(fused) is nn.Sequential
    assert isinstance(fused[1], BatchNormReLU1d)
    assert isinstance(fused[2], nn.Identity)
    assert fused.fusion_report.left == {"4": "it is followed by the end of the module"}


def test_shares_parameters_and_leaves_the_original_alone() -> None:
    """An optimizer of the original trains the fused model; the original's structure is untouched."""
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU())
    fused = fuse_batch_norm_relu(model)
    assert type(model[1]) is nn.BatchNorm1d
    assert type(model[2]) is nn.ReLU
    assert all(a is b for a, b in zip(model.parameters(), fused.parameters(), strict=True))
    assert all(a is b for a, b in zip(model.buffers(), fused.buffers(), strict=True))


class Block(nn.Module):
    """A residual block whose addition is written as the subclass says."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()

    def join(self, out: Tensor, x: Tensor) -> Tensor:
        return out + x

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.join(self.norm(self.conv(x)), x))


class ResidualFirst(Block):
    def join(self, out: Tensor, x: Tensor) -> Tensor:
        return torch.add(x, out)


class Method(Block):
    def join(self, out: Tensor, x: Tensor) -> Tensor:
        return out.add_(x)


class Scaled(Block):
    def join(self, out: Tensor, x: Tensor) -> Tensor:
        return torch.add(out, x, alpha=2)


class Constant(Block):
    def join(self, out: Tensor, x: Tensor) -> Tensor:
        return out + 1.0


class Twice(Block):
    def join(self, out: Tensor, x: Tensor) -> Tensor:
        return out + out


class Reused(Block):
    def join(self, out: Tensor, x: Tensor) -> Tensor:
        return (out + x) * out


class Overwrites(Block):
    """Changes the residual between the addition and the ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        residual = x.detach() * 2
        out = self.norm(self.conv(x)) + residual
        residual.mul_(0)
        return self.relu(out)


class Broadcast(Block):
    def join(self, out: Tensor, x: Tensor) -> Tensor:
        return out + x.mean((2, 3), keepdim=True)


class Probed(Block):
    """Uses the batch norm's output elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.conv(x))
        return self.relu(z) + z.mean()


class CalledTwice(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.relu(self.norm(self.conv(x)))))


class DependsOnMode(Block):
    """Only a rewritten forward would be fused, and that would freeze the decision."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm(self.conv(x)))
        return out * 2 if self.training else out


class DependsOnData(Block):
    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm(self.conv(x)))
        return out * 2 if x.sum() > 0 else out


class ModeAndModules(Block):
    """Depends on the mode, but swapping modules is enough."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm(self.conv(x)))
        return out * 2 if self.training else out


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        (Block, (1, 1, 0)),
        (ResidualFirst, (1, 1, 0)),
        (Method, (1, 1, 0)),
        (Broadcast, (1, 1, 0)),
        (ModeAndModules, (1, 0, 0)),
        (Scaled, (0, 0, 1)),
        (Constant, (0, 0, 1)),
        (Twice, (0, 0, 1)),
        (Reused, (0, 0, 1)),
        (Overwrites, (0, 0, 1)),
        (Probed, (0, 0, 1)),
        (CalledTwice, (0, 0, 1)),
        (DependsOnMode, (0, 0, 1)),
        (DependsOnData, (0, 0, 1)),
    ],
)
def test_blocks(kind: type[nn.Module], counts: tuple[int, int, int]) -> None:
    """What means the same is fused; what does not, or cannot be shown to, is left with a reason."""
    torch.manual_seed(0)
    check(kind(), torch.randn(4, 3, 5, 5), counts)


def test_residual_changed_in_place_is_left() -> None:
    """x += batch_norm(x) gives the caller's tensor another value: the fused form would not."""

    class InPlace(Block):
        def forward(self, x: Tensor) -> Tensor:
            residual = x.detach() * 1
            residual += self.norm(self.conv(x))
            return self.relu(residual)

    check(InPlace(), torch.randn(4, 3, 5, 5), (0, 0, 1))


def test_modules_that_must_be_left() -> None:
    """Subclasses, modules with hooks and shared batch norms are left; state stays."""

    class Odd(nn.BatchNorm2d):
        pass

    hooked = nn.BatchNorm2d(3)
    hooked.register_forward_hook(lambda *_: None)
    shared = nn.BatchNorm2d(3)
    model = nn.Sequential(
        Odd(3), nn.ReLU(), hooked, nn.ReLU(), nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared, nn.ReLU())
    )
    fused = fuse_batch_norm_relu(model)
    assert fused.fusion_report.fused == []
    assert not any(isinstance(m, BatchNormReLU2d) for m in fused.modules())


def test_fusing_twice_changes_nothing() -> None:
    """A fused model has nothing left to fuse."""
    once = fuse_batch_norm_relu(torchvision.models.resnet18())
    twice = fuse_batch_norm_relu(once)
    assert twice.fusion_report.fused == []
    assert list(twice.state_dict()) == list(once.state_dict())


def test_fused_model_copies_and_compiles() -> None:
    """Rewritten modules survive deepcopy and torch.compile."""
    model = fuse_batch_norm_relu(nn.Sequential(Block(), Block()))
    x = torch.randn(4, 3, 5, 5)
    clone = copy.deepcopy(model)
    torch.testing.assert_close(clone(x), model(x))
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_a_fused_model_can_be_traced(name: str) -> None:
    """As the model could before: for feature extraction, say."""
    fused = fuse_batch_norm_relu(getattr(torchvision.models, name)(num_classes=3)).eval()
    traced = torch.fx.symbolic_trace(fused)
    steps = {traced.get_submodule(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    assert {layer for layer in fused.modules() if isinstance(layer, BatchNormReLU2d)} <= steps
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(traced(x), fused(x), rtol=0, atol=0)
