"""A record's line: strict JSON, lossless, and aware of damage."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initbench_core.errors import UserError
from initbench_core.records.schema import (
    SCHEMA,
    Failure,
    Measurement,
    Outcome,
    Record,
    from_line,
    scalar,
    seal,
    to_line,
    trial_key,
)


def strictly(line: str) -> dict[str, object]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    body: dict[str, object] = json.loads(line, parse_constant=refuse)
    return body


def record(*measurements: Measurement) -> Record:
    return Record("exp", {"a": 1, "seed": 0}, "id", measurements, Outcome("diverged", 2), 1.5, ["a note"])


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_every_float32_survives(values: list[float]) -> None:
    line = to_line(record(Measurement("loss", "1", values, {"step": list(range(len(values)))})))
    strictly(line)
    back = from_line(line).measurements[0].values
    for before, after in zip(values, back, strict=True):
        assert before == pytest.approx(after, rel=1e-8, abs=1e-300, nan_ok=True)


def test_the_whole_record_survives() -> None:
    before = record(scalar("accuracy", "fraction", 0.5), Measurement("loss", "nats", [1.0, 2.0], {"step": [10, 20]}))
    after = from_line(to_line(before))
    assert after.key == before.key
    assert after.outcome == Outcome("diverged", 2)
    assert after.notes == ["a note"]
    assert [(m.metric, m.unit, list(m.values), dict(m.axes)) for m in after.measurements] == [
        ("accuracy", "fraction", [0.5], {}),
        ("loss", "nats", [1.0, 2.0], {"step": [10, 20]}),
    ]


def test_nonfinite_values_are_null_with_their_kind_beside() -> None:
    line = to_line(record(Measurement("loss", "1", [1.0, math.inf, -math.inf, math.nan])))
    measurement = strictly(line)["measurements"][0]  # type: ignore[index]
    assert measurement["values"] == [1.0, None, None, None]
    assert measurement["nonfinite"] == {"1": "inf", "2": "-inf", "3": "nan"}


@pytest.mark.parametrize("position", range(20, 320, 30))
def test_one_changed_character_is_noticed(position: int) -> None:
    line = to_line(record(Measurement("loss", "1", [1.0, 2.0, 3.0] * 20)))
    old = line[position]
    changed = line[:position] + ("7" if old != "7" else "8") + line[position + 1 :]
    with pytest.raises(ValueError, match=r".") as caught:
        from_line(changed)
    assert not isinstance(caught.value, UserError)


def test_another_schema_is_refused_by_name() -> None:
    body = json.loads(to_line(record()))
    del body["crc"]
    line = seal({**body, "schema": 9})
    with pytest.raises(UserError, match=r"schema 9.*update initbench"):
        from_line(line)


def test_an_older_schema_is_refused_with_what_to_do() -> None:
    body = json.loads(to_line(record()))
    del body["crc"]
    with pytest.raises(UserError, match=r"schema 0.*measure again with --fresh"):
        from_line(seal({**body, "schema": 0}))


def test_schema_1_had_no_failures_and_is_read() -> None:
    body = json.loads(to_line(record()))
    del body["crc"], body["failure"]
    after = from_line(seal({**body, "schema": 1}))
    assert after.outcome == Outcome("diverged", 2)
    assert after.failure is None


def test_up_to_schema_2_a_training_without_a_target_was_called_trained() -> None:
    def read(schema: int, *measurements: Measurement) -> str | None:
        body = json.loads(to_line(Record("exp", {"seed": 0}, "id", measurements, Outcome("trained"))))
        del body["crc"]
        found = from_line(seal({**body, "schema": schema})).outcome
        return found and found.name

    accuracy, steps = scalar("test_accuracy", "fraction", 0.4), scalar("steps_to_target", "steps", 100.0)
    assert [read(schema, accuracy) for schema in (1, 2, 3)] == ["learned", "learned", "trained"]
    assert [read(schema, accuracy, steps) for schema in (1, 2, 3)] == ["trained"] * 3


def test_a_failure_survives() -> None:
    failure = Failure("raised", "ValueError: no", 2, "Traceback ...")
    assert from_line(to_line(Record("exp", {"seed": 0}, "id", [], failure=failure))).failure == failure


def test_keys_depend_on_the_configuration_alone() -> None:
    assert trial_key("e", {"a": 1, "b": 2}) == trial_key("e", {"b": 2, "a": 1})
    assert trial_key("e", {"a": 1}) != trial_key("e", {"a": 2})
    assert trial_key("e", {"a": 1}) != trial_key("f", {"a": 1})


def test_axes_must_fit() -> None:
    with pytest.raises(ValueError, match="2 values but 1 along 'step'"):
        Measurement("loss", "1", [1.0, 2.0], {"step": [1]})


def test_a_damaged_schema_digit_is_damage_not_another_schema() -> None:
    with pytest.raises(ValueError, match="checksum"):
        from_line(to_line(record()).replace(f'"schema": {SCHEMA}', '"schema": 9'))
