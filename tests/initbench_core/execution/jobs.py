"""Jobs that go wrong in every way, for the executors' tests; a worker that runs them needs no torch."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from initbench_core.errors import MissingDataError
from initbench_core.execution.job import Progress


@dataclass(frozen=True)
class Say:
    """Returns a word."""

    word: str
    trials: int = 1

    def __call__(self, progress: Progress) -> tuple[str, int, str | None]:
        return self.word, os.getpid(), os.environ.get("OMP_NUM_THREADS")


@dataclass(frozen=True)
class Devices:
    """Returns which GPUs its process may use."""

    trials: int = 1

    def __call__(self, progress: Progress) -> str:
        return os.environ.get("CUDA_VISIBLE_DEVICES", "all")


@dataclass(frozen=True)
class Die:
    """Is killed in its first attempts, and notes each in a file."""

    attempts: int
    notes: Path
    trials: int = 1

    def __call__(self, progress: Progress) -> int:
        with self.notes.open("a") as stream:
            stream.write("x")
        if self.notes.stat().st_size <= self.attempts:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.notes.stat().st_size


@dataclass(frozen=True)
class Hang:
    """Starts a process, writes down its own number and that one's, and never ends."""

    notes: Path
    keeps_the_lock: bool = False
    trials: int = 1

    def __call__(self, progress: Progress) -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        self.notes.write_text(f"{os.getpid()} {child.pid}\n")
        if self.keeps_the_lock:
            ctypes.PyDLL(None).sleep(1000)
        time.sleep(1000)


@dataclass(frozen=True)
class Raise:
    """Raises a plain error, or one that the user must resolve."""

    is_for_the_user: bool = False
    trials: int = 1

    def __call__(self, progress: Progress) -> None:
        if self.is_for_the_user:
            raise MissingDataError("no such data: fetch it")
        raise ValueError("a number\nis wrong")


@dataclass(frozen=True)
class Allocate:
    """Takes more memory than its process may have."""

    trials: int = 1

    def __call__(self, progress: Progress) -> int:
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        return len(bytearray(2**32))


@dataclass(frozen=True)
class Report:
    """Takes its time and tells of it."""

    trials: int = 4

    def __call__(self, progress: Progress) -> str:
        for fraction in (0.25, 0.5):
            time.sleep(0.6)
            progress(fraction)
        return "reported"


@dataclass(frozen=True)
class Unpicklable:
    """Returns what cannot be sent."""

    trials: int = 1

    def __call__(self, progress: Progress) -> object:
        return lambda: None


def heed_ctrl_c() -> None:
    """Have a process that is about to start heed SIGINT, also where a shell runs the tests in its background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def are_gone(pids: list[int], seconds: float = 30.0) -> bool:
    """Tell whether all these processes end within some seconds; a zombie has ended."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    deadline = time.monotonic() + seconds
    while any(map(runs, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def read_pids(notes: Path, seconds: float = 300.0) -> list[int]:
    """Wait for the numbers that `Hang` writes down."""
    deadline = time.monotonic() + seconds
    while not (notes.exists() and notes.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int(pid) for pid in notes.read_text().split()]
