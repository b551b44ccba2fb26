"""BatchNorm+ReLU, implementation by implementation within a shape and pass."""

from collections.abc import Callable, Iterator

import pytest

from initbench_core.measurement.roofline import FUSED_PASSES
from initbench_core.measurement.shapes import parse
from initbench_core.measurement.workload import PASSES, Workload
from initbench_core.networks.implementations import IMPLEMENTATIONS, available, forget_compiled, implementation

SHAPES = ("4096x64", "65536x18", "32x256x14x14 float32 channels_last")
# torch.compile takes ten seconds a shape on two cores: it takes part at one.
COMPILED_AT = SHAPES[0]


@pytest.fixture(scope="module", params=SHAPES)
def workload(request: pytest.FixtureRequest, device: str) -> Iterator[Workload]:
    """The tensors of one shape; what was compiled for it is dropped behind it."""
    yield Workload(parse(request.param), device)
    forget_compiled()


@pytest.mark.parametrize("name", list(IMPLEMENTATIONS))
@pytest.mark.parametrize("pass_name", PASSES)
def test_batch_norm_relu(
    workload: Workload, pass_name: str, name: str, timed: Callable[..., None], device: str
) -> None:
    row = implementation(name)
    if (obstacle := available(name, device) or row.refuses(workload.x)) is not None:
        pytest.skip(f"{name}: {obstacle}")
    if row.compiled and str(workload.shape) != str(parse(COMPILED_AT)):
        pytest.skip(f"{name}: compiled at {COMPILED_AT} only")
    if pass_name not in workload.passes(row):
        pytest.skip(f"{name}: its {pass_name} cannot be timed alone")
    workload.check(row)
    timed(
        workload.call(row, pass_name),
        group=f"BatchNorm+ReLU, {workload.shape}, {pass_name}",
        dtype=workload.shape.dtype,
        num_bytes=workload.shape.num_bytes,
        passes=FUSED_PASSES[pass_name],
    )
