"""The parameters of a model under the names that they have in the plain model, whatever wraps or shards it."""

import sys
from collections.abc import Iterator

from torch import nn

# Wrappers that put a word into parameter names: torch.compile, activation checkpointing, the first FSDP.
PREFIXES = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")

# Wrappers of a whole model, whose word ("module.") a plain model may use too.
REPLICAS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def named_parameters(
    model: nn.Module, known: tuple[type[nn.Module], ...]
) -> Iterator[tuple[str, nn.Parameter, nn.Module, str]]:
    """Yield every parameter once: (first qualified name, parameter, layer that says what it is, name in that layer).

    Args:
        model: plain, or wrapped for several devices; FSDP2 gives its shards back.
        known: types of layers. A parameter tied between one of them and another layer (output layer and embedding)
            belongs to it.
    """
    while isinstance(inner := getattr(model, "_orig_mod", model), REPLICAS):
        model = inner.module
    _reshard(model)
    names: dict[int, str] = {}
    owners: dict[int, tuple[nn.Parameter, nn.Module, str]] = {}
    for prefix, layer in model.named_modules():
        for attribute, parameter in layer.named_parameters(recurse=False):
            qualified = f"{prefix}.{attribute}" if prefix else attribute
            for wrapper in PREFIXES:
                qualified = qualified.replace(wrapper, "")
            names.setdefault(id(parameter), qualified)
            owner = owners.get(id(parameter))
            if owner is None or (isinstance(layer, known) and not isinstance(owner[1], known)):
                owners[id(parameter)] = (parameter, layer, attribute)
    for identity, (parameter, layer, attribute) in owners.items():
        yield names[identity], parameter, layer, attribute


def _reshard(model: nn.Module) -> None:
    """Put FSDP2's shards back: whole parameters, which a forward pass leaves in their place, are thrown away later."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    for layer in model.modules():
        if fsdp is not None and isinstance(layer, fsdp.FSDPModule):
            layer.reshard()
