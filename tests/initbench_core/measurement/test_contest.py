"""Who takes part in a comparison, and that what is compared was measured side by side."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from initbench_core.measurement import contest
from initbench_core.measurement.contest import Contest, Question, admit, memory_bytes, times_ms, times_until_decided_ms
from initbench_core.measurement.roofline import COPY
from initbench_core.measurement.shapes import Shape
from initbench_core.measurement.workload import Workload
from initbench_core.networks import implementations
from initbench_core.networks.implementations import IMPLEMENTATIONS, available


@pytest.fixture(scope="module")
def field() -> Contest:
    return admit(Workload(Shape((512, 3))), compiled=())


def test_everyone_takes_part_or_is_left_out_with_a_reason(field: Contest) -> None:
    assert {"eager", "eager_inplace", "fused_eager"} <= set(field.first_call_s)
    assert set(field.first_call_s) | set(field.left_out) == set(IMPLEMENTATIONS)
    assert not set(field.first_call_s) & set(field.left_out)
    assert all(field.left_out.values())
    assert "some shapes only" in field.left_out["torch_compile"]


def test_what_is_wrong_or_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> torch.Tensor:
        raise RuntimeError("out of luck\nand more")

    wrong = {"wrong": F.batch_norm, "fails": fails}
    for name, function in wrong.items():
        row = dataclasses.replace(IMPLEMENTATIONS["eager"], name=name, function=function)
        monkeypatch.setitem(IMPLEMENTATIONS, name, row)
    found = admit(Workload(Shape((512, 3))), compiled=())
    assert "wrong at 512x3 float32: output is off by" in found.left_out["wrong"]
    assert found.left_out["fails"] == "RuntimeError: out of luck"
    assert not set(wrong) & set(found.first_call_s)


def test_a_copy_is_timed_beside_them(field: Contest) -> None:
    times = times_ms(field, "eval", rounds=3, min_ms=0.0)
    assert set(times) == {COPY, *field.first_call_s}
    assert all(len(samples) == 3 and min(samples) > 0 for samples in times.values())


def test_it_goes_on_until_the_interval_decides(field: Contest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around 1 nothing is decided, and the limit ends it; twice as fast is decided at the first look."""

    def invented(ratio: float) -> Any:
        def times(contest: Contest, pass_name: str, *, rounds: int, min_ms: float) -> dict[str, list[float]]:
            up_and_down = np.resize([0.8, 1.25], rounds)
            return {
                COPY: [1.0] * rounds,
                "eager": (ratio * up_and_down).tolist(),
                "fused_eager": [1.0] * rounds,
            }

        return times

    even, half = Question("fused_eager", "eager", 1.0), Question("fused_eager", "eager", 0.5)
    absent = Question("fused_triton", "eager", 1.0)
    for ratio, questions, expected in (
        (1.0, [even], 50),
        (2.0, [even], 10),
        (0.5, [even], 10),
        (1.0, [half], 10),
        (1.0, [half, even], 50),
        (1.0, [absent], 10),
        (1.0, [], 10),
    ):
        monkeypatch.setattr(contest, "times_ms", invented(ratio))
        asked = {"fwd_bwd": questions, "eval": []}
        times = times_until_decided_ms(field, asked, rounds=10, min_ms=0.0, most=50)
        assert {len(samples) for samples in times["fwd_bwd"].values()} == {expected}
        assert {len(samples) for samples in times["eval"].values()} == {10}


def test_passes_are_timed_in_sittings_with_tensors_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass has its turn in each; the same numbers lie elsewhere, and not the same one always begins."""
    field = admit(Workload(Shape((512, 3))), compiled=())
    seen: list[Workload] = []
    began: list[Any] = []

    def times(*calls: Any, rounds: int, min_ms: float) -> np.ndarray:
        seen.append(field.workload)
        began.append(type(calls[0]()))
        return np.full((len(calls), rounds), float(len(seen)))

    monkeypatch.setattr(contest, "paired_times_ms", times)
    found = times_until_decided_ms(field, {"fwd_bwd": [], "eval": []}, rounds=6, min_ms=0.0, most=6)
    assert [a is b for a, b in zip(seen[::2], seen[1::2], strict=True)] == [True] * 3
    assert len({workload.x.data_ptr() for workload in seen}) == 3
    assert all(torch.equal(workload.x, seen[0].x) for workload in seen)
    # The copy returns a tensor, forward and backward the gradients.
    assert began[::2] == [torch.Tensor, tuple, tuple]
    assert found["eval"][COPY] == [2.0, 2.0, 4.0, 4.0, 6.0, 6.0]
    assert set(found["fwd_bwd"]) == {COPY, *field.first_call_s}


def test_two_alone_can_be_compared() -> None:
    found = admit(Workload(Shape((512, 3))), compiled=(), among=("eager", "fused_eager"))
    assert list(found.first_call_s) == ["eager", "fused_eager"]
    assert not found.left_out


def test_memory_in_tensors(field: Contest) -> None:
    """Eager keeps the ReLU's output, holds the batch norm's beside it at its peak; in place there is one."""
    kept, peak = memory_bytes(field)
    size = field.workload.shape.num_bytes
    assert set(kept) == set(peak) == set(field.first_call_s)
    assert 1.0 <= kept["eager"] / size < 1.1
    assert 2.0 <= peak["eager"] / size < 2.1
    assert 1.0 <= peak["eager_inplace"] / size < 1.1
    assert 1.0 <= peak["fused_eager"] / size < 1.1


@pytest.mark.skipif(available("torch_compile", "cpu") is not None, reason="no compiler for torch.compile")
def test_torch_compile_takes_part_where_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked like all others; its backward alone is not timed, its hidden peak is not made up."""
    only = {name: IMPLEMENTATIONS[name] for name in ("eager", "torch_compile")}
    monkeypatch.setattr(contest, "IMPLEMENTATIONS", only)
    # Starting up takes as long as compiling; here nobody looks at the seconds.
    monkeypatch.setattr(contest, "start_compiler", lambda device: None)
    found = admit(Workload(Shape((64, 3))), compiled=["torch_compile"])
    assert set(found.first_call_s) == {"eager", "torch_compile"}
    assert found.taking_part("fwd_bwd") == ["eager", "torch_compile"]
    assert found.taking_part("bwd") == ["eager"]
    kept, peak = memory_bytes(found)
    assert set(peak) == {"eager"}
    assert kept["torch_compile"] > 0
    implementations.forget_compiled()
