"""Reading a file by a second library in this process, without taking the first one's locks away.

POSIX locks belong to a process's table of open files: two copies of SQLite in one process do not see each other's
locks, and whoever closes the file drops those of both. A thread with a table of its own is to them another process.
Source: https://www.sqlite.org/howtocorrupt.html, section 2.2; unshare(2), CLONE_FILES.
"""
import ctypes
import fcntl
import gc
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

_CLONE_FILES = 0x400
_AHEAD = 2  # items of each that wait for whoever takes them

Task = Callable[[Callable[[Any], None]], None]


class _Left(BaseException):
    """Nobody takes what is read any more."""


def run_aside(tasks: Sequence[Task]) -> Iterator[Any]:
    """Run functions side by side, each in a thread with files of its own, and give in turns what they hand over.

    Each is called with a function that takes an item; None ends its turn, and the next one's items are given. What one
    raises is raised here. They run to their end, or stop at their next item when this generator is closed.
    """
    handed: list[queue.Queue] = [queue.Queue(_AHEAD) for _ in tasks]
    left = threading.Event()
    threads = [threading.Thread(target=_run, args=(task, each, left), daemon=True)
               for task, each in zip(tasks, handed)]
    with _without_collection():
        for thread in threads:
            thread.start()
        try:
            while handed:
                item, error, ended = handed[0].get()
                if error is not None:
                    raise error
                if item is not None:
                    yield item
                    continue
                first = handed.pop(0)
                if not ended:
                    handed.append(first)
        finally:
            left.set()
            for thread in threads:
                thread.join()


def _run(task: Task, handed: queue.Queue, left: threading.Event) -> None:
    def give(item: Any, error: BaseException | None = None, ended: bool = False) -> None:
        while not left.is_set():
            try:
                return handed.put((item, error, ended), timeout=0.1)
            except queue.Full:
                continue
        raise _Left

    with suppress(_Left):
        try:
            _take_own_files()
            task(give)
        except _Left:
            raise
        except BaseException as error:
            give(None, error)
        give(None, ended=True)


def _take_own_files() -> None:
    """Give this thread a table of open files of its own, with nothing in it but the standard streams."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_FILES):
        raise OSError(ctypes.get_errno(), "unshare is refused")
    # Only this thread's: a socket that the app closes meanwhile must not be held open from here.
    for each in map(int, os.listdir("/proc/thread-self/fd")):
        with suppress(OSError):  # the one that listed them is closed already
            if each > 2:
                os.close(each)


@cache
def can_run_aside() -> bool:
    """Say whether threads with files of their own can be had here, by trying what their purpose is.

    Not on macOS, nor in a container that forbids unshare(2).
    """
    if not hasattr(ctypes.CDLL(None), "unshare"):
        return False
    with tempfile.TemporaryFile() as file:  # without a name: a killed process leaves nothing
        fcntl.lockf(file, fcntl.LOCK_EX)
        path = f"/proc/{os.getpid()}/fd/{file.fileno()}"

        def take(give: Callable[[bool], None]) -> None:
            second = os.open(path, os.O_RDWR)
            try:
                fcntl.lockf(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                give(True)
            except BlockingIOError:
                give(False)
            finally:
                os.close(second)
        try:
            # Twice: the first one's closing of the file must not have let the lock go.
            return not any(taken for _ in range(2) for taken in run_aside([take]))
        except OSError:
            return False


_pausing = threading.Lock()
_paused = 0
_was_enabled = False


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep the garbage collector from running in a thread whose files are others: it would close them in vain."""
    global _paused, _was_enabled
    with _pausing:
        if not _paused:
            _was_enabled = gc.isenabled()
            gc.disable()
        _paused += 1
    try:
        yield
    finally:
        with _pausing:
            _paused -= 1
            if not _paused and _was_enabled:
                gc.enable()
