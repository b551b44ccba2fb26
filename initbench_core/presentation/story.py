"""The story: what initialization does, what BatchNorm adds, where BatchNorm does not help.

An experiment tells its part by `claims(records)`; each claim stands in the report with its number, interval and theory,
all made from the records.
"""

from dataclasses import dataclass

from initbench_core.presentation.censored import Ratio
from initbench_core.presentation.statistics import Interval, ratio_text

CHAPTERS = {
    "initialization": "What initialization does",
    "batch_norm_adds": "What BatchNorm adds",
    "batch_norm_does_not_help": "Where BatchNorm does not help",
}

# Whose claims come first, the study's core.
CORE = ("plain_depth", "batch_norm_gradients", "max_stable_lr", "steps_to_target", "residual", "bn_batch_size")


def do_train(trained: Interval) -> str:
    """Say whether networks train, from the fraction that did: "train", "do not train" or "train in part"."""
    return "train" if trained.center == 1 else "do not train" if trained.center == 0 else "train in part"


def raises_or_lowers(difference: Interval) -> str:
    """Say what the interval of a paired difference shows: "raises", "lowers" or "does not measurably change"."""
    return "raises" if difference.low > 0 else "lowers" if difference.high < 0 else "does not measurably change"


@dataclass(frozen=True)
class Claim:
    """One claim with its number.

    Attributes:
        chapter: a key of `CHAPTERS`.
        sentence: the claim in words, with what the number is and on what data, as "He's weights without BatchNorm
            train at depth 20 on digits5k (3,200 training images): fraction of seeds".
        measured: the number with its 95% interval, from the records: `statistics.interval`, `wilson`,
            `bootstrap_ratio`; or `censored.steps_ratio` or `censored_ratio`, which say where they are a bound.
        n: repetitions behind it.
        theory: what theory says the number is, or what a source reports in words; None where neither says anything.
        form: how numbers are written.
        is_ratio: whether the number is one configuration over another: parity where its interval includes 1.
    """

    chapter: str
    sentence: str
    measured: Interval | Ratio
    n: int
    theory: float | str | None = None
    form: str = ".3g"
    is_ratio: bool = False

    def __post_init__(self) -> None:
        if self.chapter not in CHAPTERS:
            raise ValueError(f"no chapter {self.chapter!r}: choose from {', '.join(CHAPTERS)}")

    @property
    def measured_text(self) -> str:
        """The number with its interval, in words."""
        if self.is_ratio and isinstance(self.measured, Interval):
            return ratio_text(self.measured, self.form)
        return format(self.measured, self.form)

    @property
    def theory_text(self) -> str:
        """What theory says; a dash where it says nothing."""
        if self.theory is None:
            return "-"
        return self.theory if isinstance(self.theory, str) else format(self.theory, self.form)
