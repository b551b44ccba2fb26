"""`fuse_batch_norm_relu(model)`: put the fused operator into an existing model."""

import copy
import itertools
import logging

from torch import nn

from initbench_kernels.fusion.model import Fusion

_LOGGER = logging.getLogger(__name__)


def fuse_batch_norm_relu(model: nn.Module) -> nn.Module:
    """Return `model` with every batch norm that is followed by ReLU only replaced by the fused module.

    nn.BatchNorm1d/2d/3d followed by nn.ReLU, F.relu, torch.relu or the tensor's method is fused; so is the residual
    block's batch norm, addition and ReLU. Anything that cannot be shown to mean the same is left as it is, with the
    reason in the report: above all forwards that decide by their arguments (`if mask is None`, isinstance), run under a
    context manager, set attributes, or call what is not known. What a residual turns out to be is looked at in each
    call: one that is larger than the batch norm's output, of another dtype, or a number, is added as before.

    Every module keeps its class (or a subclass that differs in its forward only), methods, hooks and state, so the keys
    of state_dict are the same. A rewritten forward reads numbers and flags of its module as constants: when one is
    changed, the forward as it was written runs again. Methods and parents that call a batch norm of a rewritten module
    themselves still get the plain one.

    The returned model shares parameters and buffers with `model`, whose structure does not change: an optimizer made
    for the one trains the other, and an independent model is `fuse_batch_norm_relu(copy.deepcopy(model))`. Module hooks
    on a fused pair keep it from being fused.

    Two things are taken for granted: modules whose forward is left alone call the layers of others through those
    others, and Sequentials in lists as a whole; and fusing comes last, after all changes to the model's layers.

    Args:
        model: any module; it may be a batch norm's parent or a whole network.

    Returns:
        The fused model, with a `FusionReport` as its attribute `fusion_report`, which is also logged.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    clone = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    fusion = Fusion(clone)
    fusion.fuse(clone, "")
    report = fusion.report()
    clone.fusion_report = report  # type: ignore[assignment]
    _LOGGER.info("%s", report)
    return clone
