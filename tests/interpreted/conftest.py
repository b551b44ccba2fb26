"""Repairs of Triton's interpreter, and poison for outputs that nobody wrote."""

from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

_cast_impl = InterpreterBuilder.cast_impl


def _cast_rounding(self: InterpreterBuilder, src: TensorHandle, dst_type: Any) -> TensorHandle:
    """Round float32 to bfloat16 as the hardware does (to nearest, ties to even): the interpreter truncates."""
    if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
        rounded = torch.from_numpy(np.array(src.data, dtype=np.float32)).to(torch.bfloat16)
        return TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)
    return _cast_impl(self, src, dst_type)


InterpreterBuilder.cast_impl = _cast_rounding


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what torch.empty returns with NaN, so that an unwritten output cannot pass for a right one."""

    def poisoned(allocate: Any) -> Any:
        def allocate_poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return allocate_poisoned

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
