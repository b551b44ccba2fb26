"""A finding that a figure shows: beneath its title, so that the figure can be read alone."""

from collections.abc import Sequence


class Finding(str):
    """A sentence of finding, as any string, that knows its figures.

    An experiment's `findings` are strings; those that belong to a figure are of this class and name it. What no finding
    names shows the first one, the headline.
    """

    __slots__ = ("figures",)
    figures: tuple[str, ...]

    def __new__(cls, sentence: str, *figures: str) -> "Finding":
        """Make `sentence` the finding of `figures`, names as in the experiment's `figures`."""
        self = super().__new__(cls, sentence)
        self.figures = figures
        return self


def place_of(figure: str, findings: Sequence[str]) -> int:
    """Return which finding is the first that a figure shows: the headline's figures come first in a report."""
    places = (i for i, finding in enumerate(findings) if isinstance(finding, Finding) and figure in finding.figures)
    return next(places, 0)


def finding_of(figure: str, findings: Sequence[str]) -> str:
    """Return the sentences that name a figure, else the headline; empty where there are no findings."""
    own = [finding for finding in findings if isinstance(finding, Finding) and figure in finding.figures]
    return " ".join(own or findings[:1])
