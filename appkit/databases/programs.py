"""A database's own programs: run so that none outlives this process, nor leaves half a file."""
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import IO

from appkit.errors import RehearsalError

_PR_SET_PDEATHSIG = 1
_ERROR = re.compile(r"\b(error|fatal)\b", re.IGNORECASE)


class ProgramError(RehearsalError):
    """A database's program failed; `said` is all that it wrote of it."""

    def __init__(self, name: str, status: int, said: str) -> None:
        self.said = said.strip()
        lines = self.said.splitlines() or [f"{name} ended with status {status}"]
        super().__init__(next((line for line in lines if _ERROR.search(line)), lines[-1]))


def run(command: list, *, into: list | None = None, env: dict[str, str] | None = None, text: bytes = b"") -> bytes:
    """Run a program on a text, or let a second one read what it writes; give the output of the last.

    Raises
    ------
    ProgramError
        When one of them fails.
    """
    with ExitStack() as stack:
        given, *errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        output = stack.enter_context(tempfile.TemporaryFile())
        given.write(text)
        given.seek(0)
        first = _start(stack, command, env, given, subprocess.PIPE if into else output, errors[0])
        running = [first]
        if into:
            running.append(_start(stack, into, env, first.stdout, output, errors[1]))
            first.stdout.close()  # when the second one stops, the first one must hear of it
        for process in reversed(running):
            process.wait()
        for process, said in reversed(list(zip(running, errors))):  # a reader that stopped is why a writer failed
            if process.returncode:
                raise ProgramError(Path(process.args[0]).name, process.returncode, _text(said))
        output.seek(0)
        return output.read()


def _start(stack: ExitStack, command: list, env: dict[str, str] | None, given: IO | int, output: IO | int,
           errors: IO) -> subprocess.Popen:
    process = subprocess.Popen([str(part) for part in command], stdin=given, stdout=output, stderr=errors, env=env,
                               preexec_fn=_die_with_parent())
    stack.callback(process.wait)
    stack.callback(process.terminate)  # only where it still runs: this was interrupted
    return process


def _text(said: IO) -> str:
    said.seek(0)
    return said.read().decode(errors="replace")


@cache
def _die_with_parent() -> Callable[[], None] | None:
    """Give what asks Linux to end a child when this process ends, however it ends; elsewhere nobody can be asked."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: after it, little is safe to do
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Have a new file written that only its owner can read, under a name that is free; nothing stays of a failure."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, free = 1, path
    while True:
        try:
            os.close(os.open(free, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            break
        except FileExistsError:
            number += 1
            free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    try:
        write(free)
    except BaseException:
        free.unlink(missing_ok=True)
        raise
    return free
