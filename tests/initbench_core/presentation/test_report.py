"""The report: one file that loads nothing, shows everything, and runs nothing that a record says."""

import math
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from initbench_core.errors import UserError
from initbench_core.presentation import page, plots
from initbench_core.presentation.figures import draw_figures, runs_of
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.report import write_report
from initbench_core.presentation.section import collect, figure_path, origin
from initbench_core.presentation.statistics import Interval, wilson
from initbench_core.presentation.story import Claim, do_train, raises_or_lowers
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.schema import OUTCOMES, Failure, Outcome, Record, scalar
from initbench_core.records.store import RecordFile

ATTACK = "<script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>"
RUN = RunName("toy", "quick", "cpu")
ENVIRONMENT = {
    "device": "cpu", "device_name": "a processor", "cores": 2, "threads": 1, "platform": "Linux", "python": "3.11",
    "cuda": None, "packages": {"torch": "2.15.0"}, "commit": "0123456789abcdef", "dirty": True,
}  # fmt: skip


class Toy:
    """An experiment whose every text is hostile."""

    title = f"Title {ATTACK}"
    question = f"Question: {ATTACK}?\n\nExpected: `code`.\nSource: none."

    def table(self, records: Sequence[Record]) -> pd.DataFrame:
        losses = [record.measurements[0].values[0] for record in records]
        return pd.DataFrame({f"arm {ATTACK}": [ATTACK, "3 trained, 1 slow"], "loss": [losses[0], float("nan")]})

    def findings(self, records: Sequence[Record]) -> list[str]:
        return [f"Finding {ATTACK}", "Second finding"]

    def claims(self, records: Sequence[Record]) -> list[Claim]:
        return [Claim("initialization", f"Claim {ATTACK}", Interval(2.0, 1.0, 3.0), 5, theory=2.5)]

    def figures(self, records: Sequence[Record]) -> Mapping[str, Figure]:
        figure, _ = plots.panels(1, 1, title="A figure")
        return {"losses": figure}


def record_toy(folder: ResultsFolder, run: RunName = RUN, trials: int = 4, experiment: str = "toy") -> None:
    folder.prepare()
    records = RecordFile(folder.records(run), "me", {"trials": 4, "seeds": 4, "environment": ENVIRONMENT})
    for seed in range(trials):
        outcome = Outcome("trained") if seed else Outcome("slow")
        notes = [f"note {ATTACK}"] if seed == 0 else []
        records.append(Record(experiment, {"seed": seed}, "me", [scalar("loss", "1", 0.5)], outcome, 1.5, notes))
    records.finish()


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    folder = ResultsFolder(tmp_path)
    record_toy(folder)
    draw_figures(folder, runs_of(folder, ["toy"]), lambda name: Toy())
    return folder


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_needs_nothing_beside_it(folder: ResultsFolder) -> None:
    write_report(folder, lambda name: Toy())
    parsed = Page((folder.path / "index.html").read_text())
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:image/")), (tag, name, address)
    assert not parsed.all("link")
    images = parsed.all("img")
    assert len(images) == 1
    assert str(images[0]["src"]).startswith("data:image/webp;base64,")
    assert all(image["alt"] for image in images)
    policy = parsed.all("meta")[1]["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "url(" not in (folder.path / "index.html").read_text()
    assert "@import" not in (folder.path / "index.html").read_text()


def test_the_page_shows_what_the_records_say(folder: ResultsFolder) -> None:
    write_report(folder, lambda name: Toy())
    parsed = Page((folder.path / "index.html").read_text())
    readme = (folder.path / "README.md").read_text()
    assert len(parsed.all("table")) == 2
    assert sum("data-order" in cell for cell in parsed.all("td")) == 2, "the loss, and the number of trials"
    for text in (f"Finding {ATTACK}", "Second finding", "3 trained, 1 slow"):
        assert text in readme
        assert text in parsed.text
    for text in ("What initialization does", "2 (95% 1 to 3)", "2.5"):
        assert text in readme
        assert text in parsed.text
    for text in ("a processor (cpu), 2 cores, 1 thread", "torch 2.15.0", "0123456789ab, with changes", "Student"):
        assert text in parsed.text
    assert "initbench run toy --profile quick --device cpu" in parsed.text
    targets = {attributes["id"] for _, attributes in parsed.tags if attributes.get("id")}
    assert {str(link["href"])[1:] for link in parsed.all("a")} <= targets
    assert {"toy-quick-cpu", "overview", "reading"} <= targets


class Drawn(Toy):
    """Four figures, of which two show the headline, and the others later findings."""

    def findings(self, records: Sequence[Record]) -> list[str]:
        return [Finding("Headline.", "start"), Finding("Second.", "details"), Finding("Third.", "ablation")]

    def figures(self, records: Sequence[Record]) -> Mapping[str, Figure]:
        return {name: plots.panels(1, 1, title=name)[0] for name in ("ablation", "details", "start", "whole")}


def test_figures_stand_in_the_order_of_the_findings(tmp_path: Path) -> None:
    """What shows the headline comes first, whatever its name."""
    folder = ResultsFolder(tmp_path)
    record_toy(folder)
    draw_figures(folder, runs_of(folder, ["toy"]), lambda name: Drawn())
    (section,) = collect(folder, lambda name: Drawn()).sections
    assert list(section.figures) == ["start", "whole", "details", "ablation"]


def test_no_text_of_a_record_becomes_markup(folder: ResultsFolder) -> None:
    write_report(folder, lambda name: Toy())
    parsed = Page((folder.path / "index.html").read_text())
    assert parsed.scripts == [(page.HERE / "report.js").read_text()]
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert parsed.text.count(ATTACK) >= 6, "title, question, findings, table, heading and note show it as it is"


def test_seeds_are_counted_in_the_records(folder: ResultsFolder) -> None:
    """What was asked for stands in the command; an experiment that times has a seed of its own."""

    def trials() -> str:
        (section,) = collect(folder, lambda name: Toy()).sections
        return section.provenance["Trials"]

    assert trials() == "4 in 6 s, 4 seeds per configuration"
    records = RecordFile(folder.records(RUN), "me", {"trials": 1, "seeds": 4, "environment": ENVIRONMENT}, fresh=True)
    records.append(Record("toy", {"seed": 0}, "me", [scalar("loss", "1", 0.5)], Outcome("trained"), 1.5))
    records.finish()
    assert trials() == "1 in 2 s"


def test_outcomes_are_marked_as_in_the_figures() -> None:
    assert page.outcomes("3 trained, 1 <slow") == (
        '<span class="outcome trained">3 trained</span>, 1 &lt;<span class="outcome slow">slow</span>'
    )
    assert set(page.GLYPHS) == {marker for _, marker in plots.OUTCOME_STYLE.values()}
    assert list(plots.OUTCOME_STYLE) == list(OUTCOMES)


def test_the_same_records_give_the_same_page(folder: ResultsFolder) -> None:
    write_report(folder, lambda name: Toy())
    before = (folder.path / "index.html").read_bytes()
    write_report(folder, lambda name: Toy())
    assert (folder.path / "index.html").read_bytes() == before


def test_an_unfinished_run_is_named(folder: ResultsFolder) -> None:
    record_toy(folder, RunName("toy", "full", "cpu"), trials=3)
    write_report(folder, lambda name: Toy())
    text = " ".join(Page((folder.path / "index.html").read_text()).text.split())
    assert "toy (full, cpu) is unfinished: 3 of 4 trials are recorded" in text


def test_failed_trials_are_named(folder: ResultsFolder) -> None:
    """A run with failed trials is shown as far as it goes; one that leaves nothing to make a table of is named."""
    run = RunName("toy", "full", "cpu")
    records = RecordFile(folder.records(run), "me", {"trials": 1, "environment": ENVIRONMENT})
    records.append(Record("toy", {"seed": 7}, "me", [], failure=Failure("timeout", f"too slow {ATTACK}", 2)))
    records.finish()
    write_report(folder, lambda name: Toy())
    parsed = Page((folder.path / "index.html").read_text())
    for text in (parsed.text, (folder.path / "README.md").read_text()):
        assert f"trial seed 7: failed (timeout, attempts 2): too slow {ATTACK}" in " ".join(text.split())
    assert "toy (full, cpu) is unfinished" in " ".join(parsed.text.split())


@pytest.mark.parametrize("damage", ["not a record\n", '{"schema": 1, "crc": 5}\n'])
def test_damaged_records_are_named_and_nothing_is_written(folder: ResultsFolder, damage: str) -> None:
    write_report(folder, lambda name: Toy())
    before = {path: path.read_bytes() for path in folder.path.rglob("*.*") if path.is_file()}
    whole = folder.records(RUN).read_text()
    folder.records(RUN).write_text(whole + damage)
    with pytest.raises(UserError, match=r"toy-quick-cpu.jsonl is damaged in 1 of its lines \(5\)"):
        write_report(folder, lambda name: Toy())
    folder.records(RUN).write_text(damage)
    with pytest.raises(UserError, match="is not a file of records"):
        write_report(folder, lambda name: Toy())
    folder.records(RUN).write_text(whole)
    assert {path: path.read_bytes() for path in folder.path.rglob("*.*") if path.is_file()} == before


def test_records_under_another_name_are_foreign(folder: ResultsFolder) -> None:
    """A copy of another experiment's records, named as this one's, would be shown as its results."""
    record_toy(folder, RunName("other", "quick", "cpu"), trials=4)
    for write in (write_report, lambda *arguments: draw_figures(folder, runs_of(folder, ["other"]), arguments[1])):
        with pytest.raises(UserError, match=r"other-quick-cpu.jsonl holds records of toy, not of other"):
            write(folder, lambda name: Toy())


def test_a_run_is_drawn_whatever_its_other_profiles_hold(folder: ResultsFolder) -> None:
    """Hours of measuring do not end at a file that has nothing to do with them; the report names it."""
    other = RunName("toy", "full", "cpu")
    record_toy(folder, other)
    folder.records(other).write_text("no record\n")
    assert draw_figures(folder, [RUN], lambda name: Toy()) == [figure_path(folder, RUN, "losses")]
    with pytest.raises(UserError, match=r"toy-full-cpu.jsonl is not a file of records"):
        write_report(folder, lambda name: Toy())


def test_a_damaged_figure_is_named(folder: ResultsFolder) -> None:
    figure = figure_path(folder, RUN, "losses")
    whole = figure.read_bytes()
    for damaged in (b"no figure", whole[: len(whole) // 2]):
        figure.write_bytes(damaged)
        with pytest.raises(UserError, match="is no whole image: `initbench plot` draws it again"):
            write_report(folder, lambda name: Toy())


def test_the_story_is_told_once_by_the_largest_profile(folder: ResultsFolder) -> None:
    record_toy(folder, RunName("toy", "smoke", "cpu"), trials=4)
    records = RecordFile(
        folder.records(RunName("toy", "full", "cpu")), "me", {"trials": 9, "seeds": 9, "environment": ENVIRONMENT}
    )
    for seed in range(9):
        records.append(Record("toy", {"seed": seed}, "me", [scalar("loss", "1", 0.5)]))
    records.finish()
    story = collect(folder, lambda name: Toy()).story
    assert list(story) == ["What initialization does"], "chapters without claims are left out"
    ((section, claim),) = story["What initialization does"]
    assert section.run.profile == "full"
    assert (claim.measured_text, claim.theory_text) == ("2 (95% 1 to 3)", "2.5")


def test_the_story_begins_with_the_core(folder: ResultsFolder) -> None:
    record_toy(folder, RunName("plain_depth", "quick", "cpu"), experiment="plain_depth")
    (told,) = collect(folder, lambda name: Toy()).story.values()
    assert [section.run.experiment for section, _ in told] == ["plain_depth", "toy"]


def test_a_chapter_shows_the_core_and_folds_the_rest(folder: ResultsFolder) -> None:
    class Many(Toy):
        def claims(self, records: Sequence[Record]) -> list[Claim]:
            return [Claim("initialization", f"Claim {i}", Interval(2.0, 1.0, 3.0), 5) for i in range(5)]

    def story() -> tuple[str, str]:
        write_report(folder, lambda name: Many())
        shown, _, folded = (
            (folder.path / "index.html").read_text().split('id="overview"')[0].partition("<details>\n<sum")
        )
        return shown.split('id="story"')[1], folded

    shown, folded = story()
    assert (shown.count("Claim "), folded.count("Claim ")) == (5, 0), "without the core, all"
    record_toy(folder, RunName("plain_depth", "quick", "cpu"), experiment="plain_depth")
    shown, folded = story()
    assert (shown.count("Claim "), folded.count("Claim ")) == (3, 7)
    assert "plain_depth" in shown
    assert "toy" not in shown


def test_whether_networks_train_is_said_by_all_of_them() -> None:
    assert [do_train(wilson(reached, 5)) for reached in (5, 3, 0)] == ["train", "train in part", "do not train"]


def test_a_claim_says_of_a_difference_what_its_interval_shows() -> None:
    found = [raises_or_lowers(Interval(0.1, low, high)) for low, high in ((0.05, 0.2), (-0.2, -0.05), (-0.1, 0.2))]
    assert found == ["raises", "lowers", "does not measurably change"]
    assert raises_or_lowers(Interval(0.1, math.nan, math.nan)) == "does not measurably change"


def test_a_figure_says_where_its_numbers_come_from() -> None:
    for threads, words in ((1, "1 thread;"), (2, "2 threads;")):
        manifest = {"environment": ENVIRONMENT | {"threads": threads}}
        assert origin(RUN, manifest) == f"toy, quick profile, cpu: a processor, {words} torch 2.15.0"


def test_a_ratio_whose_interval_includes_1_is_parity() -> None:
    def text(low: float, high: float, *, is_ratio: bool) -> str:
        return Claim("initialization", "It helps", Interval(1.5, low, high), 5, is_ratio=is_ratio).measured_text

    assert text(0.9, 2.5, is_ratio=True) == "parity (95% 0.9 to 2.5)"
    assert text(1.1, 2.5, is_ratio=True) == text(1.1, 2.5, is_ratio=False) == "1.5 (95% 1.1 to 2.5)"
    assert text(math.nan, math.nan, is_ratio=True) == "1.5 (no interval)"
    assert text(0.9, 2.5, is_ratio=False) == "1.5 (95% 0.9 to 2.5)"


def test_a_claim_has_a_chapter() -> None:
    with pytest.raises(ValueError, match="choose from initialization, batch_norm_adds, batch_norm_does_not_help"):
        Claim("batch_norm", "It helps", Interval(2.0, 1.0, 3.0), 5)
