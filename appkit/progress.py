"""How far long work is: one line, where somebody looks on, and silence elsewhere; and how long it took."""
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TextIO

_DELAY = 0.5  # seconds; what is done sooner shows nothing


class Work(NamedTuple):
    """Something that was done."""

    place: str
    what: str
    rows: int | None
    seconds: float


_place: ContextVar[tuple[str, str]] = ContextVar("place", default=("", ""))
_done: ContextVar[list[Work] | None] = ContextVar("done", default=None)


@contextmanager
def recorded() -> Iterator[list[Work]]:
    """Give the list to which all work in the block is added."""
    token = _done.set([])
    try:
        yield _done.get()
    finally:
        _done.reset(token)


@contextmanager
def within(place: str, told: str) -> Iterator[None]:
    """Say where the work in the block belongs: what is told goes before all that is shown."""
    token = _place.set((place, f"{told}: "))
    try:
        yield
    finally:
        _place.reset(token)


@contextmanager
def progress(what: str, total: int | None = None, unit: str = "rows") -> Iterator[Callable[[int], None]]:
    """Show how far something is: the block is given a function to which it tells each time how much more is done."""
    amount = 0
    options = dict(total=total, unit=f" {unit}", unit_scale=True, delay=_DELAY)
    with _timed(what, lambda: amount if unit == "rows" else None), _bar(what, **options) as bar:
        def tell(more: int) -> None:
            nonlocal amount
            amount += more
            if bar is not None:
                bar.update(more)
        yield tell


@contextmanager
def asked_progress(what: str, total: int, ask: Callable[[], float]) -> Iterator[None]:
    """Show how far something is that has to be asked, from time to time, for how many per cent are done."""
    done, over = 0, threading.Event()

    def look() -> None:
        nonlocal done
        while not over.wait(0.25):
            now = max(done, int(total * ask() / 100))
            tell(now - done)  # nothing more is told too: the seconds go on
            done = now

    with progress(what, total) as tell:
        thread = threading.Thread(target=look, daemon=True)
        if _stream():
            thread.start()
        try:
            yield
        finally:
            over.set()
            if thread.ident:
                thread.join()
            tell(total - done)


@contextmanager
def announce(what: str) -> Iterator[None]:
    """Show what goes on, where nothing tells how far it is."""
    with _timed(what, lambda: None), _bar(what, bar_format="{desc} …"):
        yield


@contextmanager
def _timed(what: str, rows: Callable[[], int | None]) -> Iterator[None]:
    begun, done = time.perf_counter(), _done.get()
    yield
    if done is not None:
        done.append(Work(_place.get()[0], what, rows(), time.perf_counter() - begun))


@contextmanager
def _bar(what: str, **options: Any) -> Iterator[Any]:
    stream = _stream()
    if stream is None:
        yield None
        return
    from tqdm import tqdm  # only where it is shown

    class Bar(tqdm):
        monitor_interval = 0  # no thread that stays

    with Bar(desc=_place.get()[1] + what, file=stream, leave=False, dynamic_ncols=True, **options) as bar:
        yield bar


def _stream() -> TextIO | None:
    """Give where to show it: a terminal, or the cell of a notebook that somebody steps through."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return sys.stderr if sys.stderr.isatty() else None
    # Who executes a notebook to compare or to store its outputs cannot be asked for input, and says so.
    request = kernel.get_parent("shell").get("content", {})
    return sys.stdout if request.get("allow_stdin") else None
