"""Measuring: a function in a process of its own, contenders in turn, and the table of what was found.

A contender is a function that prepares (imports, opens the app) and returns the work: a function without arguments
whose seconds are counted, and whose answer must be the same for all. Peak memory is ru_maxrss of the whole process,
imports included, nothing subtracted.
"""
import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

_HEAD = "| what | ours | peer | ours / peer | target | met |\n|---|---|---|---|---|---|"
_IN_BYTES = sys.platform == "darwin"  # there ru_maxrss is bytes, elsewhere KiB


class Measured(NamedTuple):
    """What one contender took: the best seconds of its runs, and the highest peak."""

    seconds: float
    peak_mb: float
    answer: Any


class Row(NamedTuple):
    """One line of the table: our figure beside another, both in the same unit."""

    what: str
    unit: str
    ours: float
    peer: float | None = None  # None: there is none, or it is not installed
    name: str = ""  # of the peer, or why there is none
    most: float | None = None  # the target: ours / peer is at most this

    def __str__(self) -> str:
        peer = self.name if self.peer is None else f"{_shown(self.peer)} {self.unit} ({self.name})"
        ratio = "–" if self.peer is None else f"{self.ours / self.peer:.2f}"
        target = "–" if self.most is None else f"≤ {self.most:g}"
        met = "–" if self.peer is None or self.most is None else "yes" if self.ours <= self.most * self.peer else "no"
        return f"| {self.what} | {_shown(self.ours)} {self.unit} | {peer or '–'} | {ratio} | {target} | {met} |"


def _shown(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"


def table_of(rows: Iterable[Row]) -> str:
    """Give the rows as a table in Markdown."""
    return "\n".join([_HEAD, *map(str, rows)])


def measure(function: Callable, *arguments: Any) -> Measured:
    """Run a contender once, in a fresh process, and give what it took.

    A process begins with the peak of the one that started it (Linux keeps it through exec), so the one that measures
    must stay small: whatever makes or reads rows is itself run from here.
    """
    command = [sys.executable, __file__, Path(function.__code__.co_filename).stem, function.__name__,
               json.dumps(arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{function.__name__}{arguments} failed:\n{done.stderr}")
    return Measured(*json.loads(done.stdout.splitlines()[-1]))


def compete(runs: int, contenders: Iterable[Callable], *arguments: Any) -> dict[str, Measured]:
    """Measure contenders in turn, so that a busy moment meets all of them; give what each took, by its name."""
    found: dict[str, list[Measured]] = {}
    for _ in range(runs):
        for contender in contenders:
            found.setdefault(contender.__name__, []).append(measure(contender, *arguments))
    answers = {name: each[0].answer for name, each in found.items()}
    if len(set(map(json.dumps, answers.values()))) > 1:
        raise SystemExit(f"They did not do the same, so there is nothing to compare: {answers}")
    return {name: Measured(min(one.seconds for one in each), max(one.peak_mb for one in each), each[0].answer)
            for name, each in found.items()}


def is_installed(*modules: str) -> bool:
    """Say whether a peer can be measured here."""
    return all(map(find_spec, modules))


def main(run: Callable[..., list[Row]], **defaults: int) -> None:
    """Run one benchmark from the command line, its sizes as options, and print its table."""
    parser = argparse.ArgumentParser(description=sys.modules[run.__module__].__doc__)
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    with tempfile.TemporaryDirectory() as folder:
        print(table_of(run(folder, **vars(parser.parse_args()))))


def _child(module: str, function: str, arguments: str) -> None:
    """Run a contender here, and print what it took."""
    work = getattr(import_module(module), function)(*json.loads(arguments))
    start = time.perf_counter()
    answer = work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if _IN_BYTES else 1024) / 1e6
    print("\n" + json.dumps([seconds, peak, answer]))


if __name__ == "__main__":
    _child(*sys.argv[1:])
