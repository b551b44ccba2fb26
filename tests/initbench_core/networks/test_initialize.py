"""`initialize_`: right fans and numbers, every scheme, every kind of model; bad input leaves the model as it was."""

import math

import pytest
import torch
from tolerances import ORTHOGONAL_ABSOLUTE, SAMPLE_STD_RELATIVE
from torch import nn

from initbench_core.networks import initialize_
from initbench_core.networks.initializers import SCHEMES
from initbench_core.networks.lsuv import lsuv_
from initbench_kernels.random_fill import Fill, fill_


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(8, 32, 3, groups=4),
        nn.BatchNorm2d(32),
        nn.ConvTranspose2d(32, 16, 2, stride=2),
        nn.ConvTranspose1d(16, 24, 3, groups=2),
        nn.Conv3d(4, 6, (1, 2, 3), bias=False),
        nn.Linear(40, 30),
        nn.LayerNorm(30),
        nn.PReLU(),
    )


FANS = {
    "0.weight": ((2 * 9, 8 * 9), (2 * 9, 32 * 9)),
    "2.weight": ((32 * 4, 16 * 4), (16 * 4, 32 * 4)),
    "3.weight": ((8 * 3, 12 * 3), (12 * 3, 16 * 3)),
    "4.weight": ((4 * 6, 6 * 6), (4 * 6, 6 * 6)),
    "5.weight": ((40, 30), (40, 30)),
}


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("fans", ["layer", "torch"])
def test_fans_and_std_of_every_kind_of_layer(fans):
    model = convolutions()
    table = {line.name: line for line in initialize_(model, "kaiming_normal", seed=1, fans=fans)}
    for name, (true, torchs) in FANS.items():
        fan_in, fan_out = true if fans == "layer" else torchs
        line = table[name]
        assert (line.fan_in, line.fan_out, line.gain) == (fan_in, fan_out, math.sqrt(2))
        assert line.std == pytest.approx(math.sqrt(2 / fan_in))
        assert line.torch_fans == (torchs if true != torchs else None)
        expected = torch.empty(line.shape)
        fill_([Fill(expected, "normal", name, std=math.sqrt(2) * math.sqrt(1 / fan_in))], seed=1)
        assert torch.equal(model.get_parameter(name), expected)
    assert [line.name for line in table.values()] == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    "name", [name for name in SCHEMES if SCHEMES[name].distribution not in ("dirac", "orthogonal")]
)
def test_sample_std_is_the_tables(name):
    model = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Conv2d(32, 64, 3))
    for line in initialize_(model, name, seed=3):
        values = model.get_parameter(line.name).detach().double()
        if line.std == 0:
            assert values.std() == 0
        elif values.numel() > 10_000:
            assert values.std().item() == pytest.approx(line.std, rel=SAMPLE_STD_RELATIVE)


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_fills_a_convolution_and_is_reproducible(name):
    one, other = (nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)) for _ in range(2))
    for model in (one, other):
        for value in model.state_dict().values():
            value.copy_(torch.full_like(value, 99))
    first, second = (initialize_(model, name, seed=2**64 - 1) for model in (one, other))
    assert first == second
    assert equal(state(one), state(other))
    assert not any((value == 99).any() for value in one.state_dict().values())
    if name != "torch_default":
        assert (one[0].bias == 0).all()
    assert (one[1].weight == 1).all()
    assert (one[1].bias == 0).all()
    assert (one[1].running_mean == 0).all()
    assert (one[1].running_var == 1).all()
    assert one[1].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("scheme", "mode", "std"),
    [
        ("kaiming_normal", "fan_in", math.sqrt(2 / 18)),
        ("kaiming_normal", "fan_out", math.sqrt(2 / 72)),
        ("kaiming_normal", "fan_avg", math.sqrt(2 / 45)),
        ("kaiming_normal_fan_out", "fan_in", math.sqrt(2 / 72)),
        ("xavier_uniform", "fan_in", math.sqrt(2) * math.sqrt(2 / 90)),
        ("lecun_normal", "fan_out", math.sqrt(1 / 72)),
    ],
)
def test_mode_chooses_the_fan_where_the_scheme_leaves_the_choice(scheme, mode, std):
    line = initialize_(nn.Conv2d(8, 32, 3, groups=4), scheme, seed=0, mode=mode)[0]
    assert (line.name, line.std) == ("weight", pytest.approx(std))


def test_options_are_the_schemes_own_parameter():
    one, other = nn.Linear(5, 4), nn.Linear(5, 4)
    for scheme, option in (("normal", "std"), ("uniform", "bound"), ("constant", "value"), ("truncated_normal", "std")):
        first = initialize_(one, scheme, seed=0, **{option: 0.01})
        assert first == initialize_(other, f"{scheme}(0.01)", seed=0)
        assert torch.equal(one.weight, other.weight)


def test_torch_default_draws_the_bias_from_torchs_interval():
    layer = nn.Linear(64, 5000)
    initialize_(layer, "torch_default", seed=0)
    for values in (layer.weight, layer.bias):
        assert values.abs().max() < 1 / 8
        assert values.abs().max() > 0.99 / 8


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25)])
def test_orthogonal_weights_are_orthogonal_and_keyed(shape):
    layer = nn.Linear(shape[1], shape[0])
    line = initialize_(layer, "orthogonal", seed=5, nonlinearity="tanh")[0]
    weight = layer.weight.detach().double()
    gram = weight @ weight.t() if shape[0] <= shape[1] else weight.t() @ weight
    assert line.gain == pytest.approx(5 / 3)
    torch.testing.assert_close(gram, (5 / 3) ** 2 * torch.eye(min(shape)).double(), rtol=0, atol=ORTHOGONAL_ABSOLUTE)
    again = nn.Sequential(nn.Linear(7, 7), nn.Linear(shape[1], shape[0]))
    initialize_(again, "orthogonal", seed=5, nonlinearity="tanh")
    assert not torch.equal(again[1].weight, layer.weight)


def test_dirac_hands_every_channel_on_group_by_group():
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=2)
    initialize_(layer, "dirac", seed=0)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(layer(x), x)


def test_lsuv_scales_every_layer_to_unit_variance():
    model = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 30))
    batch = 3 * torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    initialize_(model, "lsuv", seed=0, batch=batch, tolerance=0.01)
    first = model[0](batch)
    assert abs(first.var().item() - 1) <= 0.01
    assert abs(model[2](model[1](first)).var().item() - 1) <= 0.01


def test_lsuv_leaves_running_statistics_fresh():
    model = nn.Sequential(nn.Linear(40, 60), nn.BatchNorm1d(60), nn.ReLU(), nn.Linear(60, 30))
    initialize_(model, "lsuv", seed=0, batch=torch.randn(200, 40) + 2)
    assert torch.equal(model[1].running_mean, torch.zeros(60))
    assert torch.equal(model[1].running_var, torch.ones(60))


class Failing(nn.Module):
    """Raises at its n-th forward pass."""

    def __init__(self, error: BaseException, at: int) -> None:
        super().__init__()
        self.error, self.left = error, at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return x


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt()], ids=repr)
def test_a_forward_pass_that_raises_gives_the_model_its_values_back(error, at):
    # With other numbers a layer may have unit variance already, and there is no third pass.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3), Failing(error, at))
    model[1].running_mean.fill_(7.0)
    before = state(model)
    batch = 3 * torch.randn(9, 4)
    for call in (lambda: initialize_(model, "lsuv", seed=0, batch=batch), lambda: lsuv_(model, batch)):
        model[3].left = at
        with pytest.raises(type(error)) as raised:
            call()
        assert raised.value is error
        assert equal(state(model), before)


def test_model_from_the_meta_device_equals_the_plain_one():
    plain = convolutions()
    initialize_(plain, seed=9)
    with torch.device("meta"):
        late = convolutions()
    with pytest.raises(ValueError, match=r"'0.weight'.*to_empty"):
        initialize_(late, seed=9)
    late.to_empty(device="cpu")
    for value in late.state_dict().values():
        value.fill_(99)
    initialize_(late, seed=9)
    assert equal(state(late), state(plain))


def test_mixed_dtypes_hold_the_float32_values_rounded():
    plain, mixed = convolutions(), convolutions()
    mixed[0].to(torch.bfloat16)
    mixed[2].to(torch.float16)
    mixed[5].to(torch.float64)
    mixed[0].to(memory_format=torch.channels_last)
    for model in (plain, mixed):
        initialize_(model, seed=4)
    for name, parameter in mixed.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name).to(parameter.dtype))


def test_a_layer_does_not_depend_on_its_neighbours():
    small = nn.ModuleDict({"a": nn.Linear(5, 6)})
    large = nn.ModuleDict({"z": nn.Linear(3, 3), "a": nn.Linear(5, 6), "b": nn.Conv2d(3, 3, 3)})
    for model in (small, large):
        initialize_(model, seed=4)
    assert torch.equal(small["a"].weight, large["a"].weight)


def test_tied_parameters_are_filled_once_by_the_layer_that_has_a_fan():
    model = nn.ModuleDict({"embedding": nn.Embedding(50, 8), "output": nn.Linear(8, 50)})
    model["embedding"].weight = model["output"].weight
    table = initialize_(model, seed=0)
    assert [line.name for line in table] == ["embedding.weight", "output.bias"]
    assert table[0].fan_in == 8
    assert model["embedding"].weight is model["output"].weight


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch 2.11's own
def test_compiled_models_keep_the_names_of_the_plain_one():
    plain = nn.Sequential(nn.Linear(4, 4))
    table = initialize_(torch.compile(plain), seed=0)
    assert [line.name for line in table] == ["0.weight", "0.bias"]


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch 2.11's own
@pytest.mark.parametrize("compiled", [[], ["inside"], ["outside"], ["inside", "outside"]], ids=", ".join)
def test_replicas_keep_the_names_of_the_plain_model(compiled):
    plain, model = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))
    wrapped = nn.DataParallel(torch.compile(model) if "inside" in compiled else model)
    table = initialize_(torch.compile(wrapped) if "outside" in compiled else wrapped, seed=0)
    assert table == initialize_(plain, seed=0)
    assert equal(state(model), state(plain))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")  # from torch's constructor
def test_empty_weights_are_no_error():
    assert initialize_(nn.Linear(0, 3), "kaiming_normal", seed=0)[0].fan_in == 0


class Scale(nn.Module):
    """A 1-D weight without a fan."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 7.0))


def test_unknown_parameters_are_kept_on_request():
    model = nn.Sequential(nn.Linear(3, 3), Scale())
    table = initialize_(model, seed=0, others="keep")
    assert table[-1].name == "1.weight"
    assert table[-1].filled == "kept"
    assert (model[1].weight == 7).all()


def one_dimensional(model: nn.Module) -> None:
    model[2].weight = nn.Parameter(torch.ones(3))


def integers(model: nn.Module) -> None:
    model[2].weight = nn.Parameter(torch.ones(3, 6, dtype=torch.int8), requires_grad=False)


def shared_in_part(model: nn.Module) -> None:
    """The last bias lies in the last weight's memory."""
    memory = torch.full((20,), 7.0)
    model[2].weight, model[2].bias = nn.Parameter(memory[:18].view(3, 6)), nn.Parameter(memory[16:19])


def undivided_groups(model: nn.Module) -> None:
    model[2] = nn.Conv1d(2, 4, 3, groups=2)
    model[2].weight = nn.Parameter(torch.ones(3, 1, 3))


def one_infinite(*shape: int) -> torch.Tensor:
    batch = torch.ones(shape)
    batch[-1, -1, -1] = -math.inf
    return batch


BAD = {
    "orthogonal on 1-D": (
        {"scheme": "orthogonal"},
        lambda m: setattr(m[2], "weight", nn.Parameter(torch.ones(3))),
        "2.w",
    ),
    "fan of 1-D": ({}, one_dimensional, "2.weight"),
    "dirac on 2-D": ({"scheme": "dirac"}, None, "2.weight"),
    "dirac in groups that do not divide": ({"scheme": "dirac"}, undivided_groups, r"'2.weight'.*2 groups.*\(3, 1, 3\)"),
    "1-D weight": ({}, lambda m: m.append(Scale()), r"'3.weight'.*1-D"),
    "embedding": ({}, lambda m: m.append(nn.Embedding(3, 3)), "3.weight"),
    "made from another": (
        {},
        lambda m: nn.utils.spectral_norm(m[2]),
        "'2.weight_orig': of a Linear layer only weight and bias are filled, and weight_orig is neither",
    ),
    "integers": ({}, integers, "'2.weight'.*int8"),
    "integers, orthogonal": ({"scheme": "orthogonal"}, integers, "'2.weight'.*int8"),
    "complex": ({}, lambda m: m.append(nn.Linear(2, 2, dtype=torch.complex64)), "'3.weight'.*complex64"),
    "lazy": ({}, lambda m: m.append(nn.LazyLinear(2)), "'3.weight'.*materialized"),
    "negative std": ({"scheme": "normal", "std": -1.0}, None, r"'0.weight'.*std"),
    "scheme": ({"scheme": "glorot"}, None, "unknown initializer 'glorot'"),
    "mode": ({"mode": "fan"}, None, "mode"),
    "mode without a choice": ({"scheme": "xavier_normal", "mode": "fan_out"}, None, "leaves no choice"),
    "nonlinearity": ({"nonlinearity": "relu7"}, None, "unknown nonlinearity"),
    "option": ({"gain": 2.0}, None, "unknown option 'gain'"),
    "lsuv without a batch": ({"scheme": "lsuv", "tolerance": 0.1}, None, "batch="),
    "lsuv on no batch": ({"scheme": "lsuv", "batch": None}, None, "batch must be a tensor.* got NoneType"),
    "lsuv on a word": ({"scheme": "lsuv", "batch": "x"}, None, "batch must be a tensor.* got str"),
    "lsuv on nothing": ({"scheme": "lsuv", "batch": torch.zeros(0, 2, 4)}, None, r"got shape \(0, 2, 4\)"),
    "lsuv on a scalar": ({"scheme": "lsuv", "batch": torch.tensor(1.0)}, None, r"got shape \(\)"),
    "lsuv on the meta device": ({"scheme": "lsuv", "batch": torch.ones(5, 2, 4, device="meta")}, None, "on meta"),
    "lsuv on nan": ({"scheme": "lsuv", "batch": torch.full((5, 2, 4), math.nan)}, None, "nan or infinite"),
    "lsuv on one infinity": ({"scheme": "lsuv", "batch": one_infinite(5, 2, 4)}, None, "nan or infinite"),
    "lsuv on another shape": ({"scheme": "lsuv", "batch": torch.ones(5, 3, 4)}, None, r"batch of shape \(5, 3, 4\)"),
    "lsuv on integers": ({"scheme": "lsuv", "batch": torch.ones(5, 2, 4).long()}, None, "batch of shape.*int64"),
    "lsuv tolerance": ({"scheme": "lsuv", "batch": torch.ones(5, 2, 4), "tolerance": -1}, None, "tolerance"),
    "lsuv no tolerance": ({"scheme": "lsuv", "batch": torch.ones(5, 2, 4), "tolerance": None}, None, "tolerance"),
    "lsuv iterations": ({"scheme": "lsuv", "batch": torch.ones(5, 2, 4), "max_iterations": -1}, None, "max_iterations"),
    "lsuv half an iteration": (
        {"scheme": "lsuv", "batch": torch.ones(5, 2, 4), "max_iterations": 0.5},
        None,
        "max_iterations",
    ),
    "std None": ({"scheme": "normal", "std": None}, None, "std must be a number, got None"),
    "std a string": ({"scheme": "normal", "std": "0.1"}, None, "std must be a number, got '0.1'"),
    "value a list": ({"scheme": "constant", "value": [1]}, None, "value must be a number"),
    "value beyond float32": ({"scheme": "constant(1e39)"}, None, "'0.weight'.*float32"),
    "no scheme": ({"scheme": None}, None, "unknown initializer None"),
    "memory shared in part": ({}, shared_in_part, "'2.bias'.*also filled by the row of key '2.weight'"),
    "memory shared in part, orthogonal": ({"scheme": "orthogonal"}, shared_in_part, "'2.*also filled by the row"),
    "backend": ({"backend": "bogus"}, None, "^unknown backend 'bogus'"),
    "fans": ({"fans": "theirs"}, None, "fans"),
    "others": ({"others": "skip"}, None, "others"),
    "seed": ({"seed": -1}, None, "seed"),
    "wide seed": ({"seed": 2**64}, None, "seed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_parameter_and_leaves_the_model_alone(case):
    arguments, change, message = BAD[case]
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Linear(6, 3))
    model[1].running_mean.fill_(7.0)
    if change is not None:
        change(model)
    before = {} if case == "lazy" else state(model)
    with pytest.raises(ValueError, match=message):
        initialize_(model, **({"seed": 0} | arguments))
    assert case == "lazy" or equal(state(model), before)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_default_device_does_not_matter(scheme):
    """Not even the meta device, on which a helper tensor would have no values."""
    plain, other = (nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 1)) for _ in range(2))
    options = {"batch": torch.randn(9, 4, 5)} if scheme == "lsuv" else {}
    initialize_(plain, scheme, seed=0, **options)
    with torch.device("meta"):
        initialize_(other, scheme, seed=0, **options)
    assert equal(state(other), state(plain))


@pytest.mark.parametrize("scheme", ["orthogonal", "kaiming_normal"])
def test_named_backend_is_never_replaced(scheme, monkeypatch):
    """Not even where every value is made in eager code."""
    model = nn.Linear(4, 4, bias=False)
    before = state(model)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="unknown backend 'bogus'"):
        initialize_(model, scheme, seed=0, backend="bogus")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        initialize_(model, scheme, seed=0, backend="triton")
    monkeypatch.setenv("INITBENCH_BACKEND", "triton")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        initialize_(model, scheme, seed=0)
    assert equal(state(model), before)
    initialize_(model, scheme, seed=0, backend="eager")
