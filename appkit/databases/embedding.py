"""A server of this process's own: started in a private folder, and gone with the process however that ends."""
import atexit
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from sqlalchemy import URL, create_engine
from sqlalchemy.pool import NullPool

from appkit.errors import AppkitError

_PATIENCE = 60  # seconds
_SOCKET = 90  # letters of a folder whose socket the system can still name
# The server's guard: its input ends with the process that started it, however that ends; then the server is stopped
# and its data deleted. In a session of its own, so that an interrupt of the notebook does not reach it.
_GUARD = ('folder=$1; stop=$2; shift 2; "$@" </dev/null >"$folder/log" 2>&1 & server=$!; '
          'read -r nothing; kill -$stop $server; wait $server 2>/dev/null; cd /; rm -rf "$folder"')
_numbers = count(1)


@dataclass(frozen=True)
class Server:
    """How a database's server is made and run."""

    name: str  # of the database, for a message
    folder: Path
    files: dict[str, str]  # that its programs read once: passwords are in them
    make: list  # the command that makes its data
    run: list  # the server's own
    stop: str  # the signal that ends it at once
    ready: str  # what its log says when it takes connections
    failed: str  # and when it never will
    url: URL


def private_folder() -> Path:
    """Make a folder for a server, with a path that is short enough for its socket."""
    short = len(tempfile.gettempdir()) < _SOCKET
    return Path(tempfile.mkdtemp(prefix="appkit-server-", dir=None if short else "/tmp"))


def new_database(url: URL) -> URL:
    """Make a fresh, empty database on a server; give its URL."""
    name = f"demo{next(_numbers)}"
    _execute(url, f"CREATE DATABASE {name}")
    return url.set(database=name)


def start(server: Server) -> URL:
    """Start a server that ends with this process, and its folder with it; give its URL.

    Raises
    ------
    AppkitError
        When it does not start; then nothing stays of it.
    """
    user = None if os.getuid() else "nobody"  # no server starts as root
    try:
        for name, text in server.files.items():
            (server.folder / name).write_text(text)
        if user:
            for path in (server.folder, *server.folder.iterdir()):
                shutil.chown(path, user)
        subprocess.run(server.make, check=True, capture_output=True, text=True, **_as(user))
        guard = subprocess.Popen(["/bin/sh", "-c", _GUARD, "sh", server.folder, server.stop, *server.run],
                                 stdin=subprocess.PIPE, start_new_session=True, **_as(user))
    except BaseException as reason:
        shutil.rmtree(server.folder, ignore_errors=True)
        if not isinstance(reason, (OSError, subprocess.CalledProcessError)):
            raise
        said = (getattr(reason, "stderr", None) or str(reason)).strip()
        raise AppkitError(f"The embedded {server.name} cannot be made: {said}.") from reason
    atexit.register(_stop, guard, os.getpid())
    _wait(server, guard)
    for name in server.files:
        (server.folder / name).unlink()
    return server.url


def _stop(guard: subprocess.Popen, owner: int) -> None:
    if os.getpid() == owner:  # a forked child has no say
        guard.stdin.close()
        guard.wait()


def _as(user: str | None) -> dict:
    them = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    return {"cwd": "/", "env": {"LC_ALL": "C", "PATH": os.environ["PATH"]}} | them


def _wait(server: Server, guard: subprocess.Popen) -> None:
    deadline = time.monotonic() + _PATIENCE
    while server.ready not in (said := _log(server)):  # not asked: a driver that is refused may leave a socket open
        if time.monotonic() > deadline or server.failed in said:
            guard.stdin.close()
            guard.wait()
            raise AppkitError(f"The embedded {server.name} does not start: {said[-1000:].strip()}")
        time.sleep(0.02)


def _log(server: Server) -> str:
    log = server.folder / "log"
    return log.read_text(errors="replace") if log.exists() else ""


def _execute(url: URL, statement: str) -> None:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
