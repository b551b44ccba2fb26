"""Initializers as data: one row a scheme, and the eager fill with the semantics of `torch.nn.init`.

Nearly every scheme of the literature is variance scaling, Var(w) = scale * gain^2 / fan: a scale, a fan and a
distribution make LeCun, Xavier and Kaiming three rows of one table. The orthogonal and Dirac matrices and LSUV are
functions. A scheme is named by its row, with its own parameter in brackets where it has one: "kaiming_normal",
"normal(0.01)", "constant(0.5)".
"""

import math
import re
from dataclasses import dataclass

import torch
from torch import nn

from initbench_core.errors import ConfigError
from initbench_core.networks.fans import WEIGHT_LAYERS, Fans, layer_fans, torch_fans
from initbench_core.networks.gains import gain
from initbench_core.networks.special_weights import check_shape
from initbench_core.networks.theory import truncated_normal_variance


@dataclass(frozen=True)
class Scheme:
    """One row of the table.

    Attributes:
        distribution: "constant", "normal", "uniform", "truncated_normal" (at 2 standard deviations), "orthogonal" or
            "dirac".
        scale: Var(w) * fan / gain^2; None where the standard deviation does not depend on the fans.
        mode: the fan: "fan_in", "fan_out" or "fan_avg" (the mean of both).
        uses_gain: whether the nonlinearity's gain multiplies the standard deviation.
        default: the scheme's own parameter where the name gives none (a value, a std, or a uniform bound).
        corrected: whether the standard deviation holds after truncation (Keras, JAX) or before it (torch).
        source: where the scheme comes from.
    """

    distribution: str
    source: str
    scale: float | None = None
    mode: str = "fan_in"
    uses_gain: bool = False
    default: float | None = None
    corrected: bool = False


GLOROT = "Glorot & Bengio 2010, section 4.2.1"
HE = "He et al. 2015, section 2.2"
LECUN = "LeCun et al. 1998, Efficient BackProp, section 4.6"

SCHEMES: dict[str, Scheme] = {
    "zeros": Scheme("constant", "torch.nn.init.zeros_", default=0.0),
    "constant": Scheme("constant", "torch.nn.init.constant_", default=1.0),
    "normal": Scheme("normal", "torch.nn.init.normal_", default=1.0),
    "uniform": Scheme("uniform", "torch.nn.init.uniform_, on [-bound, bound)", default=1.0),
    "torch_default": Scheme("uniform", "nn.Linear.reset_parameters: kaiming_uniform_ with a = sqrt(5)", scale=1 / 3),
    "lecun_normal": Scheme("normal", LECUN, scale=1.0),
    "lecun_uniform": Scheme("uniform", LECUN, scale=1.0),
    "xavier_normal": Scheme("normal", GLOROT, scale=1.0, mode="fan_avg", uses_gain=True),
    "xavier_uniform": Scheme("uniform", GLOROT, scale=1.0, mode="fan_avg", uses_gain=True),
    "kaiming_normal": Scheme("normal", HE, scale=1.0, uses_gain=True),
    "kaiming_uniform": Scheme("uniform", HE, scale=1.0, uses_gain=True),
    "kaiming_normal_fan_out": Scheme("normal", HE, scale=1.0, mode="fan_out", uses_gain=True),
    "kaiming_uniform_fan_out": Scheme("uniform", HE, scale=1.0, mode="fan_out", uses_gain=True),
    "truncated_normal": Scheme("truncated_normal", "torch.nn.init.trunc_normal_ at 2 std", default=1.0),
    "truncated_normal_corrected": Scheme(
        "truncated_normal", "Keras, JAX: std after truncation", default=1.0, corrected=True
    ),
    "kaiming_truncated_normal": Scheme("truncated_normal", HE, scale=1.0, uses_gain=True, corrected=True),
    "orthogonal": Scheme("orthogonal", "Saxe et al. 2014, section 3", uses_gain=True),
    "dirac": Scheme("dirac", "Zagoruyko & Komodakis 2017, DiracNets"),
    "lsuv": Scheme("orthogonal", "Mishkin & Matas 2016: orthogonal, then each layer scaled on data"),
}

# Standard deviation of a unit normal truncated at 2: a variance of 0.7737.
TRUNCATED_STD = math.sqrt(truncated_normal_variance(2))


@dataclass(frozen=True)
class Distribution:
    """What one weight is drawn from, in numbers.

    Attributes:
        kind: as `Scheme.distribution`.
        std: the standard deviation of the values (0 for a constant; the gain for orthogonal and Dirac).
        low: lower bound of the values (-inf for a normal).
        high: upper bound.
        value: the value of a constant.
        parent_std: the `std` argument of a truncated normal before truncation.
    """

    kind: str
    std: float
    low: float = -math.inf
    high: float = math.inf
    value: float = 0.0
    parent_std: float = 0.0


def parse_scheme(name: str) -> tuple[Scheme, float | None]:
    """Split "normal(0.01)" into its row and its parameter.

    Raises:
        ConfigError: an unknown scheme, or a parameter where the scheme has none; the message lists what there is.
    """
    match = re.fullmatch(r"(\w+)(?:\(([^()]+)\))?", name) if isinstance(name, str) else None
    if match is None or match[1] not in SCHEMES:
        raise ConfigError(f"unknown initializer {name!r}: choose from {', '.join(SCHEMES)}")
    scheme = SCHEMES[match[1]]
    if match[2] is None:
        return scheme, scheme.default
    if scheme.default is None:
        raise ConfigError(f"initializer {match[1]!r} takes no parameter, got {name!r}")
    try:
        return scheme, float(match[2])
    except ValueError:
        raise ConfigError(f"the parameter of {name!r} is not a number") from None


def distribution(name: str, fans: Fans, nonlinearity: str = "relu") -> Distribution:
    """Return the numbers behind a scheme for a layer with `fans` in front of `nonlinearity`.

    Raises:
        ConfigError: as `parse_scheme` and `gains.gain`; a negative or infinite standard deviation.
    """
    scheme, parameter = parse_scheme(name)
    factor = gain(nonlinearity) if scheme.uses_gain else 1.0
    if scheme.distribution == "constant":
        return Distribution("constant", std=0.0, low=parameter or 0.0, high=parameter or 0.0, value=parameter or 0.0)
    if scheme.distribution in ("orthogonal", "dirac"):
        return Distribution(scheme.distribution, std=factor)
    if scheme.scale is not None:
        fan = {"fan_in": fans.fan_in, "fan_out": fans.fan_out, "fan_avg": (fans.fan_in + fans.fan_out) / 2}[scheme.mode]
        std = factor * math.sqrt(scheme.scale / fan)
    elif scheme.distribution == "uniform":
        std = (parameter or 0.0) / math.sqrt(3)
    else:
        std = parameter or 0.0
    if not 0 <= std < math.inf:
        raise ConfigError(f"initializer {name!r} has std {std:g}: it must be finite and not negative")
    if scheme.distribution == "uniform":
        # A uniform on [-b, b) has variance b^2 / 3: the bound is sqrt(3) standard deviations.
        return Distribution("uniform", std, low=-math.sqrt(3) * std, high=math.sqrt(3) * std)
    if scheme.distribution == "truncated_normal":
        parent = std / TRUNCATED_STD if scheme.corrected else std
        return Distribution(
            "truncated_normal", parent * TRUNCATED_STD, low=-2 * parent, high=2 * parent, parent_std=parent
        )
    return Distribution("normal", std)


@torch.no_grad()
def fill_weight_(
    weight: torch.Tensor,
    name: str,
    *,
    nonlinearity: str = "relu",
    fans: Fans | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Fill one weight in place by a scheme, drawing from torch's generator as `torch.nn.init` does.

    Args:
        weight: floating point, [fan_out, fan_in, ...] as nn.Linear and nn.ConvNd store it.
        name: a scheme, as "kaiming_normal" or "normal(0.01)".
        nonlinearity: the activation behind the layer, for schemes with a gain.
        fans: the layer's fans; None takes torch's view of the weight's shape.
        generator: None for torch's global one.

    Returns:
        `weight`.

    Raises:
        ConfigError: an unknown scheme or nonlinearity, or a scheme that does not fit the shape.
    """
    row = distribution(name, fans or torch_fans(weight), nonlinearity)
    check_shape(row.kind, tuple(weight.shape))
    if row.kind == "constant":
        return weight.fill_(row.value)
    if row.kind == "normal":
        return weight.normal_(0.0, row.std, generator=generator)
    if row.kind == "uniform":
        return weight.uniform_(row.low, row.high, generator=generator)
    if row.kind == "truncated_normal":
        nn.init.trunc_normal_(weight, 0.0, row.parent_std, row.low, row.high, generator=generator)
        return weight
    if row.kind == "orthogonal":
        nn.init.orthogonal_(weight, gain=row.std, generator=generator)
        return weight
    nn.init.dirac_(weight)
    return weight


def initialize_layers_(model: nn.Module, name: str, *, nonlinearity: str = "relu") -> None:
    """Fill every Linear, Conv and ConvTranspose weight of `model` in place, in module order; biases become zero.

    "torch_default" redraws weight and bias as the layer's constructor does. "lsuv" fills the orthogonal matrices
    only: scale them with `lsuv.lsuv_` once there is data.
    """
    for layer in model.modules():
        if not isinstance(layer, WEIGHT_LAYERS):
            continue
        if name == "torch_default":
            layer.reset_parameters()
            continue
        fill_weight_(layer.weight, name, nonlinearity=nonlinearity, fans=layer_fans(layer))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def scale_weights_(model: nn.Module, factor: float) -> None:
    """Multiply every Linear, Conv and ConvTranspose weight of `model` by `factor` in place; biases stay."""
    for layer in model.modules():
        if isinstance(layer, WEIGHT_LAYERS):
            layer.weight.mul_(factor)
