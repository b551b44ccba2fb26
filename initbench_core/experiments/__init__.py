"""The experiments: every module of this package is one, found by its file name.

A module states its question in its docstring (the first line is its title) and defines

- `Config`: a frozen dataclass of plain values, all that defines a trial, seed included;
- `grid(setting)`: the configurations of a profile;
- `run(config, setting)`: yields the measurements and the outcome of one trial;
- `table(records)`: the results as a data frame with units in the column names;
- `findings(records)`: what was found, as sentences made from the numbers, the headline first; a `Finding` names the
  figures that it is written into, and what no finding names shows the headline (`presentation.finding`);
- `figures(records)`: the figures by name.

It may define

- `run_together(configs, setting)`: trials that differ in nothing but their seed in one go; entry i is what `run` would
  have yielded for configuration i;
- `weights(config)`: how many weights a trial's network has, where those of many seeds are too large to train together;
- `claims(records)`: its part of the report's story (`presentation.story`);
- `TIMED = True`: its numbers are times, so that nothing else may run beside it.

To add an experiment is to add its file: command line, smoke test, figures and report find it here.
"""

import ast
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from initbench_core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from initbench_core.presentation.story import Claim
    from initbench_core.records.schema import Emission, Record
    from initbench_core.training.setting import Setting


def names() -> list[str]:
    """Return the names of all experiments, sorted; no experiment is imported."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


class Experiment:
    """One experiment; its module is imported when something of it is needed."""

    def __init__(self, name: str) -> None:
        """Find the experiment.

        Raises:
            UserError: there is none of this name.
        """
        if name not in names():
            raise UserError(f"no experiment {name!r}: choose from {', '.join(names())}")
        self.name = name

    @property
    def source(self) -> Path:
        """The experiment's file."""
        return Path(__file__).with_name(f"{self.name}.py")

    @property
    def title(self) -> str:
        """The first line of its docstring, without the full stop."""
        return self._docstring().splitlines()[0].rstrip(".")

    @property
    def question(self) -> str:
        """The rest of its docstring."""
        return "\n".join(self._docstring().splitlines()[1:]).strip()

    def _docstring(self) -> str:
        return inspect.cleandoc(ast.get_docstring(ast.parse(self.source.read_text())) or self.name)

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"{__name__}.{self.name}")

    def grid(self, setting: "Setting") -> Sequence[Any]:
        """Return the configurations of a profile."""
        return list(self._module.grid(setting))

    def run(self, config: Any, setting: "Setting") -> "Iterator[Emission]":
        """Run one trial."""
        yield from self._module.run(config, setting)

    @property
    def runs_together(self) -> bool:
        """Whether trials that differ only in their seed can run in one go."""
        return hasattr(self._module, "run_together")

    def run_together(self, configs: Sequence[Any], setting: "Setting") -> "Sequence[Iterable[Emission]]":
        """Run trials that differ only in their seed; entry i is what `run` would yield for configuration i."""
        together: Sequence[Iterable[Emission]] = self._module.run_together(configs, setting)
        return together

    def weights(self, config: Any) -> int:
        """Return how many weights a trial's network has; 0 where those of all seeds may train together."""
        count: Callable[[Any], int] | None = getattr(self._module, "weights", None)
        return count(config) if count else 0

    @property
    def timed(self) -> bool:
        """Whether its numbers are times: it runs alone, with all threads."""
        return bool(getattr(self._module, "TIMED", False))

    def table(self, records: "Sequence[Record]") -> "pd.DataFrame":
        """Return the results as a table."""
        frame: pd.DataFrame = self._module.table(records)
        return frame

    def findings(self, records: "Sequence[Record]") -> list[str]:
        """Return what was found, one sentence each."""
        return list(self._module.findings(records))

    def claims(self, records: "Sequence[Record]") -> "list[Claim]":
        """Return its part of the story; empty if it tells none."""
        claims: Callable[[Sequence[Record]], Iterable[Claim]] | None = getattr(self._module, "claims", None)
        return list(claims(records)) if claims else []

    def figures(self, records: "Sequence[Record]") -> "Mapping[str, Figure]":
        """Return the figures by name."""
        figures: Mapping[str, Figure] = self._module.figures(records)
        return figures
