"""The command line: list, run, plot, report, compare.

torch and pandas are imported inside the commands, so that `--help` answers at once. What a user can put right ends in
one line and exit code 2.
"""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from initbench_core.errors import TrialsFailedError, UserError
from initbench_core.experiments import Experiment, names

# Older typers build on the package click, newer ones on a copy of their own; either way this is its base exception.
ClickException: type[Exception] = next(b for b in typer.BadParameter.__mro__ if b.__name__ == "ClickException")

app = typer.Typer(
    help="Benchmarks of weight initialization and batch normalization in PyTorch.",
    add_completion=False,
    no_args_is_help=True,
    # Paragraphs are filled to the terminal's width; the default keeps the ends of the lines below.
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option("--out", help="Folder for records, figures and the report.")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Experiments; all of them if none is named.")
]


@app.command("list")
def list_command() -> None:
    """List the experiments and what each one asks."""
    for name in names():
        typer.echo(f"{name:24} {Experiment(name).title}")


@app.command()
def run(
    experiments: Names = None,
    profile: Annotated[str, typer.Option(help="smoke (seconds), quick (minutes on 2 cores) or full.")] = "quick",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    backend: Annotated[
        str,
        typer.Option(
            help="Fused BatchNorm with ReLU and fused initializers: triton, eager, or auto (triton on CUDA). Results "
            "of each belong in a folder of their own."
        ),
    ] = "auto",
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Repetitions per configuration.", show_default="by profile")
    ] = None,
    out: Out = Path("results"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew what is recorded already.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with torchvision's MNIST or CIFAR-10.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Images of the convergence study: digits5k, mnist or fashion_mnist.",
            show_default="digits that are there",
        ),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch missing data sets into --data-dir.")] = False,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints.", show_default="OUT/checkpoints")
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(help="Folder for TensorBoard event files of trainings; with it seeds are trained one by one."),
    ] = None,
    jobs: Annotated[
        str,
        typer.Option(
            help="Worker processes; auto is one per core (per GPU on CUDA). Threads are shared among them. "
            "Experiments that measure times run alone, with all threads."
        ),
    ] = "1",
    trial_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Seconds after which a trial counts as failed and its process is killed.", show_default="no"
        ),
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often to try a trial again whose process was lost.")] = 1,
    executor: Annotated[str, typer.Option(help="local, or ray for a Ray cluster.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of the Ray cluster's head, or auto; run this on one of its machines.",
            show_default="a cluster of this machine alone",
        ),
    ] = None,
    cpus_per_trial: Annotated[
        int, typer.Option(min=1, max=100_000, help="Ray: cores of a trial, and its threads.")
    ] = 1,
    gpus_per_trial: Annotated[
        float, typer.Option(min=0.0, help="Ray: GPUs of a trial; 0.25 puts four trials on each.")
    ] = 0.0,
) -> None:
    """Run experiments, record every trial, draw the figures and write the report.

    An interrupted run continues where it stopped when the same command is given again. A trial that raises, hangs,
    crashes or runs out of memory is recorded as failed, and the others run; the same command tries it again. A
    configuration that cannot be built ends the run: it must be put right.

    Exit codes: 0 all is recorded, 2 an argument, a file or the data must be put right, 3 some trials failed,
    130 interrupted, 143 terminated.
    """
    chosen = [Experiment(name) for name in dict.fromkeys(experiments or names())]
    from initbench_core.execution.options import Options, read_jobs

    options = Options(
        jobs=read_jobs(jobs),
        timeout=trial_timeout,
        retries=retries,
        executor=executor,
        address=address,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
    )
    from initbench_core.runner import run_experiments

    run_experiments(
        chosen,
        profile=profile,
        device=device,
        backend=backend,
        seeds=seeds,
        out=out,
        fresh=fresh,
        data_dir=data_dir,
        dataset=dataset,
        download=download,
        checkpoints=checkpoints,
        tensorboard=tensorboard,
        options=options,
    )


@app.command()
def plot(experiments: Names = None, out: Out = Path("results")) -> None:
    """Draw the figures again from the records."""
    from initbench_core import catalogue
    from initbench_core.presentation.figures import draw_figures, runs_of, why_none
    from initbench_core.records.folder import ResultsFolder

    for name in experiments or ():
        catalogue.find(name)
    with ResultsFolder(out).existing() as folder:
        runs = runs_of(folder, experiments or ())
        paths = draw_figures(folder, runs, catalogue.find)
        if not paths:
            raise UserError(why_none(folder, runs))
    for path in paths:
        typer.echo(path)


@app.command()
def report(out: Out = Path("results")) -> None:
    """Write the report, README.md and index.html, from the records and the figures."""
    from initbench_core import catalogue
    from initbench_core.presentation.report import write_report
    from initbench_core.records.folder import ResultsFolder

    with ResultsFolder(out).existing() as folder:
        for path in write_report(folder, catalogue.find):
            typer.echo(path)


@app.command()
def compare(
    run_a: Annotated[str, typer.Argument(help="File of records, results folder, or name of a run in --out.")],
    run_b: Annotated[str, typer.Argument(help="The same, later: what may have become worse.")],
    out: Out = Path("results"),
    min_difference: Annotated[
        float, typer.Option(min=0.0, help="Smallest relative change of a noisy metric that matters.")
    ] = 0.05,
    drift: Annotated[
        float | None, typer.Option(min=0.0, help="Least scale of what times drift between runs [default: 0.06].")
    ] = None,
    across_machines: Annotated[
        bool, typer.Option("--across-machines", help="Compare what does not depend on the machine.")
    ] = False,
    form: Annotated[str, typer.Option("--format", help="text, markdown or json.")] = "text",
) -> None:
    """Print what changed beyond noise between two runs; exit status 1 if anything became worse. Writes nothing."""
    from initbench_core.comparison.between_runs import DRIFT
    from initbench_core.comparison.changes import compare as find_changes
    from initbench_core.comparison.show import FORMATS, show
    from initbench_core.comparison.sources import alone, pairs

    if form not in FORMATS:
        raise UserError(f"no format {form!r}: choose from {', '.join(FORMATS)}")
    runs = pairs(run_a, run_b, out, across_machines=across_machines)
    drift = DRIFT if drift is None else drift
    changes = find_changes(runs, min_difference=min_difference, drift=drift, across_machines=across_machines)
    show(runs, changes, form, alone(run_a, run_b, out))
    if any(change.verdict == "worse" for change in changes):
        raise typer.Exit(1)


class _Terminated(BaseException):
    """The process was asked to end (SIGTERM), as a batch system does."""


def _end_by(number: signal.Signals, error: type[BaseException]) -> None:
    """Have a signal raise `error`, once: a second one must not cut short the ending of the workers."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise error

    # A shell has its background jobs ignore Ctrl-C: so it stays.
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, end)


def main() -> int:
    """Run the command line and return its exit code.

    0 (done), 1 (`compare` found a regression), 2 (the user can put it right), 3 (some trials failed), 130 (interrupted)
    or 143 (terminated).
    """
    _end_by(signal.SIGINT, KeyboardInterrupt)
    _end_by(signal.SIGTERM, _Terminated)
    interrupted = "interrupted: finished trials are recorded; the same command (without --fresh) continues from there"
    try:
        # Some versions of typer return 130 for an interruption, others raise.
        code = app(standalone_mode=False)
        if code == 130:
            return _say(interrupted, 130)
    except UserError as error:
        return _say(str(error), 2)
    except TrialsFailedError as error:
        return _say(str(error), 3)
    except ClickException as error:
        message = error.format_message()  # type: ignore[attr-defined]
        # Without arguments the help has been printed already, and the message is empty.
        return _say(f"{message} (see initbench --help)", 2) if message else 2
    except (KeyboardInterrupt, typer.Abort):
        return _say(interrupted, 130)
    except _Terminated:
        return _say(
            "terminated: finished trials are recorded; the same command (without --fresh) continues from there", 143
        )
    return code if isinstance(code, int) else 0


def _say(message: str, code: int) -> int:
    print(f"initbench: {' '.join(message.split())}", file=sys.stderr)
    return code
