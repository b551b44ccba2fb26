"""`initialize_`: a whole model by one scheme, the same weights on every machine.

Every value is a function of (seed, qualified parameter name, position in the unsharded tensor): not of the device, the
sharding, the order of the layers or the layers beside it. All tensors are filled in one launch.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from initbench_core.errors import ConfigError
from initbench_core.networks.fans import WEIGHT_LAYERS, Fans, layer_fans, torch_fans
from initbench_core.networks.gains import gain
from initbench_core.networks.initializers import SCHEMES, Distribution, distribution, parse_scheme
from initbench_core.networks.lsuv import check_lsuv, check_unsharded, scale_layers_, unchanged_on_failure
from initbench_core.networks.named_parameters import named_parameters
from initbench_core.networks.special_weights import dirac_weight, orthogonal_weight
from initbench_kernels.backend import named_backend, resolve_backend
from initbench_kernels.random_fill import Fill, FillPlan
from initbench_kernels.random_fill.layout import store_whole_
from initbench_kernels.random_fill.parameters import as_float
from initbench_kernels.random_fill.rows import check_rows, check_seed

NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
MODES = ("fan_in", "fan_out", "fan_avg")

# The scheme's own parameter, as an option.
PARAMETER_OF = {"constant": "value", "normal": "std", "truncated_normal": "std", "uniform": "bound"}
LSUV_OPTIONS = ("batch", "tolerance", "max_iterations")


class Initialized(NamedTuple):
    """One line of the table that `initialize_` returns.

    Attributes:
        name: qualified parameter name, the key of its values.
        shape: of the unsharded parameter.
        fan_in: inputs of one output; None for what is no weight.
        fan_out: outputs of one input; None for what is no weight.
        gain: factor for the nonlinearity; None for what is no weight.
        std: standard deviation of the values (0 for constants; for orthogonal and Dirac matrices the gain).
        filled: what with: "kaiming_normal", "constant(0)", or "kept".
        torch_fans: the fans that `torch.nn.init` takes, where they differ from the layer's true ones.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int | None
    fan_out: int | None
    gain: float | None
    std: float
    filled: str
    torch_fans: Fans | None = None


class _Job(NamedTuple):
    """One parameter: its table line, and how it is filled: a row, or a function that makes the whole weight."""

    line: Initialized
    parameter: nn.Parameter
    row: Fill | None = None
    make: Callable[[int], torch.Tensor] | None = None


@torch.no_grad()
def initialize_(
    module: nn.Module,
    scheme: str = "kaiming_normal",
    *,
    seed: int,
    nonlinearity: str = "relu",
    mode: str = "fan_in",
    backend: str | None = None,
    fans: str = "layer",
    others: str = "raise",
    **options: Any,
) -> list[Initialized]:
    """Fill every parameter of a model in place: weights by the scheme, biases 0, normalization layers (1, 0).

    Running statistics are reset too, and a PReLU gets its slope back, so a model from the meta device is complete after
    `to_empty()` and this call, provided that it has no other buffers (and that what was tied is tied again: to_empty()
    unties). DTensor parameters (FSDP2, tensor parallel) get the values of the unsharded model, without communication;
    a tied parameter is filled once, under its first name, and DistributedDataParallel and other wrappers change none.

    Args:
        module: the model, on any devices, in float32, float16, bfloat16 or float64, mixed as it may be.
        scheme: a row of `SCHEMES`, as "kaiming_normal" or "normal(0.01)". "torch_default" draws the biases as well, as
            the constructors of torch's layers do. Orthogonal matrices are factorized in float64 on the CPU. "lsuv"
            without a batch leaves them unscaled.
        seed: in [0, 2^64).
        nonlinearity: the activation behind the layers, for schemes with a gain.
        mode: "fan_in", "fan_out" or "fan_avg", for schemes that leave the choice (LeCun, Kaiming, torch_default).
        backend: "triton" or "eager", as in `fill_`; it must be able to serve orthogonal and Dirac matrices too, though
            these are made in eager code.
        fans: "layer" for the layer's true fans; "torch" for those of `torch.nn.init`, which ignores groups in fan_out
            and swaps both fans of a transposed convolution.
        others: what to do with a parameter of a layer that is neither Linear, Conv, ConvTranspose, PReLU nor a
            normalization: "raise", or "keep" its values.
        **options: the scheme's own parameter by name (`value`, `std` or `bound`, instead of "normal(0.01)"); for "lsuv"
            `batch` [N, ...] and the `tolerance` and `max_iterations` of `lsuv.lsuv_`, for models that are not sharded.

    Returns:
        What was done, one line a parameter, in the order of `named_parameters()`.

    Raises:
        ValueError: an unknown scheme, option, mode, nonlinearity or backend; an option of a wrong value, a batch that
            the model does not take; a seed out of range; a parameter that is not floating point, not materialized or of
            an unknown layer; a scheme that does not fit a shape (orthogonal on 1-D, Dirac on 2-D). The message names
            the parameter, and every tensor of the model is what it was; so too if a pass over LSUV's batch raises.
        RuntimeError: the named backend cannot serve the model.
    """
    seed = check_seed(seed)
    try:
        named_backend(backend)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    name, lsuv_options = _with_options(scheme, options)
    choose = _fan_choice(name, mode)
    if fans not in ("layer", "torch"):
        raise ConfigError(f"fans must be 'layer' or 'torch', got {fans!r}")
    if others not in ("raise", "keep"):
        raise ConfigError(f"others must be 'raise' or 'keep', got {others!r}")
    gain(nonlinearity)
    if lsuv_options:
        check_unsharded(module)
    jobs = []
    known = (*WEIGHT_LAYERS, *NORMALIZATIONS, nn.PReLU)
    for parameter_name, parameter, owner, attribute in named_parameters(module, known):
        try:
            jobs.append(_job(parameter_name, parameter, owner, attribute, name, nonlinearity, choose, fans, others))
        except ValueError as error:
            raise ConfigError(f"parameter {parameter_name!r}: {error}") from None
    made = [job for job in jobs if job.make is not None]
    rows = [job.row for job in jobs if job.row is not None]
    try:
        if made:
            # Those made in eager code pass the same checks as the others, beside the others.
            check_rows([*rows, *(Fill(job.parameter, "normal", job.line.name) for job in made)])
        plan = FillPlan(rows, backend=backend)
    except ValueError as error:
        raise ConfigError(f"parameter {error}") from None
    for device in dict.fromkeys(job.parameter.device for job in made):
        resolve_backend(backend, device)
    with unchanged_on_failure(module) if lsuv_options else contextlib.nullcontext():
        plan.fill_(seed)
        for job in made:
            assert job.make is not None
            store_whole_(job.parameter, job.make(seed))
        if lsuv_options:
            scale_layers_(module, **lsuv_options)
    # Last, for LSUV's passes over its batch move them.
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            layer.reset_running_stats()
    return [job.line for job in jobs]


def _with_options(scheme: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the scheme's full name, its parameter written into it, and the options of LSUV."""
    row, _ = parse_scheme(scheme)
    allowed: tuple[str, ...] = LSUV_OPTIONS if scheme == "lsuv" else ()
    if row.default is not None and scheme in SCHEMES and scheme != "zeros":
        allowed = (PARAMETER_OF[row.distribution],)
    unknown = [option for option in options if option not in allowed]
    if unknown:
        hint = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
        raise ConfigError(f"unknown option {unknown[0]!r} for initializer {scheme!r}: {hint}")
    if scheme == "lsuv":
        if options and "batch" not in options:
            raise ConfigError("lsuv scales the layers on a batch: pass batch=")
        if options:
            check_lsuv(**options)
        return scheme, options
    if not options:
        return scheme, {}
    # The scheme's own parameter is the only option left.
    [(option, value)] = options.items()
    try:
        return f"{scheme}({as_float(value, option)!r})", {}
    except ValueError as error:
        raise ConfigError(f"option {error}") from None


def _fan_choice(name: str, mode: str) -> Callable[[Fans], Fans]:
    """Return the function that turns a layer's fans into those that the scheme's formula gets."""
    if mode not in MODES:
        raise ConfigError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    row, _ = parse_scheme(name)
    if mode == "fan_in" or mode == row.mode:
        return lambda fans: fans
    if row.scale is None or row.mode != "fan_in":
        raise ConfigError(f"initializer {name!r} leaves no choice of the fan: mode={mode!r} does not apply")
    if mode == "fan_out":
        return lambda fans: Fans(fans.fan_out, fans.fan_out)
    # A mean of two integers may end in one half; the formula takes it as well.
    return lambda fans: Fans(*[(fans.fan_in + fans.fan_out) / 2] * 2)  # type: ignore[arg-type]


def _job(
    name: str,
    parameter: nn.Parameter,
    layer: nn.Module,
    attribute: str,
    scheme: str,
    nonlinearity: str,
    choose: Callable[[Fans], Fans],
    fans: str,
    others: str,
) -> _Job:
    """Decide what one parameter is filled with."""
    if nn.parameter.is_lazy(parameter):
        raise ConfigError("is not materialized yet: run the lazy module once")
    shape = tuple(parameter.shape)
    if isinstance(layer, WEIGHT_LAYERS) and attribute == "weight":
        return _weight_job(name, parameter, layer, scheme, nonlinearity, choose, fans)
    if isinstance(layer, WEIGHT_LAYERS) and attribute == "bias":
        if scheme != "torch_default":
            return _constant_job(name, parameter, 0.0)
        # Linear.reset_parameters draws the bias from the weight's own interval, with torch's fan_in.
        assert isinstance(layer.weight, torch.Tensor)
        fan_in = torch_fans(layer.weight).fan_in
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        if bound == 0 or parameter.numel() == 0:
            return _constant_job(name, parameter, 0.0)
        line = Initialized(name, shape, None, None, None, bound / math.sqrt(3), "torch_default")
        return _Job(line, parameter, row=Fill(parameter, "uniform", name, low=-bound, high=bound))
    if isinstance(layer, NORMALIZATIONS) and attribute in ("weight", "bias"):
        return _constant_job(name, parameter, 1.0 if attribute == "weight" else 0.0)
    if isinstance(layer, nn.PReLU):
        return _constant_job(name, parameter, float(layer.init))
    if others == "keep":
        return _Job(Initialized(name, shape, None, None, None, math.nan, "kept"), parameter)
    hint = "others='keep' leaves such parameters as they are"
    if isinstance(layer, (*WEIGHT_LAYERS, *NORMALIZATIONS)):
        raise ConfigError(
            f"of a {type(layer).__name__} layer only weight and bias are filled, and {attribute} is neither; {hint}"
        )
    no_fan = f"a {len(shape)}-D parameter has no fan, and " if len(shape) < 2 else ""
    raise ConfigError(
        f"{no_fan}{type(layer).__name__} is neither a Linear, Conv, ConvTranspose, PReLU nor normalization layer; "
        f"{hint}"
    )


def _constant_job(name: str, parameter: nn.Parameter, value: float) -> _Job:
    line = Initialized(name, tuple(parameter.shape), None, None, None, 0.0, f"constant({value:g})")
    return _Job(line, parameter, row=Fill(parameter, "constant", name, value=value))


def _weight_job(
    name: str,
    weight: nn.Parameter,
    layer: nn.Module,
    scheme: str,
    nonlinearity: str,
    choose: Callable[[Fans], Fans],
    fans: str,
) -> _Job:
    shape = tuple(weight.shape)
    theirs, ours = torch_fans(weight), layer_fans(layer)
    used = theirs if fans == "torch" else ours
    factor = gain(nonlinearity) if parse_scheme(scheme)[0].uses_gain else 1.0
    line = Initialized(name, shape, *used, factor, 0.0, scheme, theirs if theirs != ours else None)
    if weight.numel() == 0:
        return _Job(line, weight, row=Fill(weight, "constant", name))
    row = distribution(scheme, choose(used), nonlinearity)
    line = line._replace(std=row.std)
    if row.kind == "orthogonal":
        return _Job(line, weight, make=orthogonal_weight(name, shape, row.std))
    if row.kind == "dirac":
        return _Job(line, weight, make=dirac_weight(shape, _groups(layer)))
    return _Job(line, weight, row=_row(weight, name, row))


def _groups(layer: nn.Module) -> int:
    """Return the groups along the weight's first dimension; a transposed convolution's lie along its inputs too."""
    return int(getattr(layer, "groups", 1))


def _row(weight: nn.Parameter, name: str, row: Distribution) -> Fill:
    if row.kind == "constant":
        return Fill(weight, "constant", name, value=row.value)
    if row.kind == "uniform":
        if row.low == row.high:
            return Fill(weight, "constant", name, value=row.low)
        return Fill(weight, "uniform", name, low=row.low, high=row.high)
    if row.kind == "normal":
        return Fill(weight, "normal", name, std=row.std)
    return Fill(weight, "truncated_normal", name, std=row.parent_std, a=row.low, b=row.high)
