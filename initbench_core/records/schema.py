"""The schema of a record: measurements of one trial, and their form in strict JSON."""

import dataclasses
import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from initbench_core.errors import UserError

SCHEMA = 3

# What this version reads. Schema 1 had no failures; a line of it is one of schema 2 without that field. Up to schema 2
# a training without a target was "trained" where it is "learned" now.
READABLE = (1, 2, 3)

# How a training ends, from best to worst; `training.outcome` decides it.
OUTCOMES = {
    "trained": "reached its target",
    "learned": "did better than the constant predictor, where no target was set",
    "slow": "did better than the constant predictor, but fell short of the target",
    "stalled": "did not better the constant predictor's loss by 1%",
    "diverged": "left the finite numbers, or 1,000 times its first loss",
}

Scalar = float | int | str | bool | None

# Units of what is read off a clock.
TIME_UNITS = ("s", "samples/s")


@dataclass(frozen=True)
class Measurement:
    """One measured quantity of a trial, a number or a series.

    Attributes:
        metric: its name, as "train_loss".
        unit: its unit for an axis; "1" where it has none.
        values: the numbers; inf and nan are allowed.
        axes: coordinates of each value (as {"step": [10, 20]}), each as long as `values`.
    """

    metric: str
    unit: str
    values: Sequence[float]
    axes: Mapping[str, Sequence[Scalar]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for axis, coordinates in self.axes.items():
            if len(coordinates) != len(self.values):
                raise ValueError(f"{self.metric}: {len(self.values)} values but {len(coordinates)} along {axis!r}")

    @property
    def is_time(self) -> bool:
        """Whether it is read off a clock, and so differs between two runs of one training."""
        return self.unit in TIME_UNITS


def scalar(metric: str, unit: str, value: float) -> Measurement:
    """Return a measurement of a single number."""
    return Measurement(metric, unit, [value])


@dataclass(frozen=True)
class Outcome:
    """How a training ended; the classes are defined in `training.outcome`.

    Attributes:
        name: a key of `OUTCOMES`.
        first_bad_step: the step (from 1) whose loss was the first bad one, for "diverged".
    """

    name: str
    first_bad_step: int | None = None


@dataclass(frozen=True)
class Failure:
    """Why a trial has no result.

    Attributes:
        reason: "raised" (an exception), "timeout" (longer than its limit), "crashed" (its process was lost) or
            "out_of_memory".
        message: what happened, in one line.
        attempts: how often it was tried.
        traceback: where it was raised; empty for the other reasons.
    """

    reason: str
    message: str
    attempts: int = 1
    traceback: str = ""


@dataclass(frozen=True)
class Note:
    """A sentence that belongs to a trial's record."""

    text: str


# What an experiment's `run` yields.
Emission = Measurement | Outcome | Note


@dataclass(frozen=True)
class Record:
    """One trial, finished or failed.

    Attributes:
        experiment: its name.
        config: everything that defines the trial, seed included.
        identity: fingerprint of environment and code (`environment.identity`).
        measurements: what was measured.
        outcome: how its training ended; None where nothing was trained.
        seconds: wall time of the trial; it and measurements that are times differ between repetitions.
        notes: what a reader must know, as a restart from a damaged checkpoint.
        failure: why there are no measurements; None for a finished trial.
    """

    experiment: str
    config: Mapping[str, Scalar]
    identity: str
    measurements: Sequence[Measurement]
    outcome: Outcome | None = None
    seconds: float = 0.0
    notes: Sequence[str] = ()
    failure: Failure | None = None

    @property
    def key(self) -> str:
        """The identity of the trial: the same for the same experiment and configuration."""
        return trial_key(self.experiment, self.config)


def trial_key(experiment: str, config: Mapping[str, Scalar]) -> str:
    """Return 16 hex digits that name a trial."""
    text = json.dumps([experiment, dict(config)], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_line(record: Record) -> str:
    """Return `record` as one line of strict JSON, newline included, with a checksum of itself."""
    body = {
        "schema": SCHEMA,
        "key": record.key,
        "experiment": record.experiment,
        "config": dict(record.config),
        "identity": record.identity,
        "outcome": record.outcome.name if record.outcome else None,
        "first_bad_step": record.outcome.first_bad_step if record.outcome else None,
        "seconds": round(record.seconds, 3),
        "notes": list(record.notes),
        "failure": dataclasses.asdict(record.failure) if record.failure else None,
        "measurements": [_encode(m) for m in record.measurements],
    }
    return seal(body)


def seal(body: dict[str, Any]) -> str:
    """Return `body` as one line with its checksum."""
    return json.dumps({**body, "crc": _checksum(body)}, allow_nan=False) + "\n"


def _checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, allow_nan=False).encode())


def from_line(line: str) -> Record:
    """Return the record of one line.

    Raises:
        ValueError: the line is damaged (not JSON, a checksum that does not fit, a missing field).
        UserError: the line has another schema version: it is whole, but not ours to read.
    """
    try:
        body: dict[str, Any] = json.loads(line, parse_constant=_refuse_constant)
        crc = body.pop("crc")
        if crc != _checksum(body):
            raise ValueError("the checksum does not fit")
        schema = body["schema"]
        if schema not in READABLE:
            raise UserError(f"records of schema {schema}, this version reads {SCHEMA}: {_advice(schema)}")
        failure = body.get("failure")
        outcome = Outcome(body["outcome"], body["first_bad_step"]) if body["outcome"] else None
        measurements = [_decode(m) for m in body["measurements"]]
        had_target = any(m.metric == "steps_to_target" for m in measurements)
        if schema < 3 and outcome and outcome.name == "trained" and not had_target:
            outcome = Outcome("learned")
        return Record(
            experiment=body["experiment"],
            config=body["config"],
            identity=body["identity"],
            measurements=measurements,
            outcome=outcome,
            seconds=body["seconds"],
            notes=body["notes"],
            failure=Failure(**failure) if failure else None,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record: {error!r}") from error


def _advice(schema: int) -> str:
    return "update initbench" if schema > SCHEMA else "measure again with --fresh"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _encode(measurement: Measurement) -> dict[str, Any]:
    """Nine digits carry a float32; non-finite values are null, with their kind beside them."""
    values: list[float | None] = []
    nonfinite: dict[str, str] = {}
    for i, value in enumerate(measurement.values):
        number = float(value)
        if math.isfinite(number):
            values.append(float(f"{number:.9g}"))
        else:
            values.append(None)
            nonfinite[str(i)] = str(number)
    body: dict[str, Any] = {"metric": measurement.metric, "unit": measurement.unit, "values": values}
    if measurement.axes:
        body["axes"] = {axis: list(coordinates) for axis, coordinates in measurement.axes.items()}
    if nonfinite:
        body["nonfinite"] = nonfinite
    return body


def _decode(body: dict[str, Any]) -> Measurement:
    nonfinite = body.get("nonfinite", {})
    values = [float(nonfinite[str(i)]) if value is None else float(value) for i, value in enumerate(body["values"])]
    return Measurement(body["metric"], body["unit"], values, body.get("axes", {}))
