"""Private copies of a SQLite database: how one is made, told from its source, and put back."""
import math
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote as quote_path
from urllib.parse import unquote

from sqlalchemy import URL, Engine

from appkit.errors import RehearsalError
from appkit.progress import progress

_PAGES = 10_000  # copied at once: 40 MB, in a moment; between them others may write
_PATIENCE = 10  # seconds
# What a rehearsal takes in its private folders, at most, in sizes of the database; then with the way back. The copy,
# and the start as it was; while a table is made anew, that table twice and the journal; the rows before and after;
# with the downgrade, all that again.
ROOM = 6, 11
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def place_asked(arguments: tuple, options: dict) -> str | None:
    """Give the file that a driver's connect arguments name; None when the database is in memory."""
    name = os.fsdecode(arguments[0] if arguments else options.get("database", ":memory:"))
    if name.startswith("file:") and options.get("uri"):
        path, _, query = name[len("file:"):].partition("?")
        if "mode=memory" in query:
            return None
        name = unquote(path.partition("#")[0])
        name = name[len("//localhost"):] if name.startswith("//localhost/") else name
        name = name[2:] if name.startswith("///") else name
    return None if name in ("", ":memory:") else os.path.realpath(name)


def place_of(engine: Engine) -> str | None:
    """Give what tells an engine's database from every other one: its file, or None in memory."""
    return place_asked(*engine.dialect.create_connect_args(engine.url))


def place_behind(connection: Any) -> str | None:
    """Give the file that an open driver connection really has, whatever its engine's URL says."""
    name = next((row[2] for row in connection.execute("PRAGMA database_list") if row[1] == "main"), "")
    return os.path.realpath(name) if name else None


def copy_database(engine: Engine, folder: Path, to: URL | None = None) -> URL:
    """Write a copy of an engine's database, as committed at this moment, into a folder; give its URL.

    The source is read through SQLite's own backup from a connection that cannot write (in memory: through the engine's
    own, which is the only way in). A database without a file yet is copied as an empty one, and stays without.

    Raises
    ------
    RehearsalError
        When SQLite cannot read it, or there is no room for it, or it should go to a server.

    Source: https://www.sqlite.org/backup.html; a plain copy of the file loses what is in the write-ahead log.
    """
    if to is not None:
        raise RehearsalError("copy_to names a server, and a database of SQLite is a file: its copy is made in TMPDIR.")
    path = folder / "copy.db"
    path.touch(mode=0o600)
    try:
        with closing(sqlite3.connect(path)) as target:
            _copy(engine, target)
    except sqlite3.Error as reason:
        raise RehearsalError(f"Cannot copy the database: {reason}.") from reason
    return URL.create(engine.url.drivername, database=str(path))


def _copy(engine: Engine, target: sqlite3.Connection) -> None:
    source, size = place_of(engine), size_of(engine)
    with progress("copying the database", size, "B") as tell:
        if source is None:
            with closing(engine.raw_connection()) as pooled:
                _back_up(pooled.driver_connection, target, tell, size)
        elif os.path.exists(source):
            with closing(open_readonly(source)) as connection:
                _back_up(connection, target, tell, size)


def _back_up(source: sqlite3.Connection, target: sqlite3.Connection, tell: Callable[[int], object], size: int) -> None:
    """Copy page by page; give up when the database stays locked, which the driver alone would wait for without end."""
    deadline, done = time.monotonic() + _PATIENCE, 0

    def going_on(status: int, remaining: int, total: int) -> None:
        nonlocal deadline, done
        if status not in _BUSY:
            deadline = time.monotonic() + _PATIENCE
            now = size - size * remaining // (total or 1)
            tell(now - done)
            done = now
        elif time.monotonic() > deadline:
            raise sqlite3.OperationalError(f"it is locked, for more than {_PATIENCE} seconds")

    source.backup(target, pages=_PAGES, progress=going_on, sleep=0.05)


def size_of(engine: Engine) -> int:
    """Give the bytes of an engine's database, what is in the write-ahead log included."""
    source = place_of(engine)
    if source is not None:
        return sum(os.path.getsize(path) for path in (source, f"{source}-wal") if os.path.exists(path))
    with closing(engine.raw_connection()) as pooled:
        ask = pooled.driver_connection.execute
        return math.prod(ask(f"PRAGMA main.{each}").fetchone()[0] for each in ("page_count", "page_size"))


def empty_database(folder: Path, like: URL) -> URL:
    """Give the URL of a database with nothing in it, in a private folder."""
    path = folder / "empty.db"
    path.unlink(missing_ok=True)
    return like.set(database=str(path))


def back_up(engine: Engine, revision: str, _folder: Path) -> Path | None:
    """Write a backup beside an engine's database file, named after the revision it stands at; None in memory."""
    source = place_of(engine)
    if source is None or not os.path.exists(source):
        return None
    number, path = 1, Path(f"{source}.before-{revision}")
    while path.exists():
        number += 1
        path = Path(f"{source}.before-{revision}-{number}")
    path.touch(mode=0o600, exist_ok=False)
    with closing(sqlite3.connect(path)) as target:
        _copy(engine, target)
    return path


def save_copy(url: URL, folder: Path, name: str) -> URL:
    """Keep the present state of a private copy that nobody is connected to, under a name in a private folder."""
    with closing(sqlite3.connect(url.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return url.set(database=str(shutil.copy(url.database, folder / f"{name}.db")))  # with its mode


def restore_copy(url: URL, saved: URL) -> None:
    """Put a private copy back to a state that was kept; what was kept is used up."""
    for end in ("-wal", "-shm", "-journal"):
        Path(url.database + end).unlink(missing_ok=True)
    os.replace(saved.database, url.database)


def adopt_copy(engine: Engine) -> URL:
    """Take a database that is there for the copy."""
    return engine.url


def drop_copy(_url: URL) -> None:
    """Let a copy go: it is a file of a private folder, which goes by itself."""


drop_copies = drop_copy


def notes_of(_url: URL) -> list[str]:
    """Say what of the source a copy does not have: it has all."""
    return []


def advise(_statement: str) -> str:
    """Give the way to do what a statement does without stopping the app: SQLite tells of nobody who waits."""
    return ""


def open_readonly(path: str) -> sqlite3.Connection:
    """Open a database file so that nothing can be written through it."""
    return sqlite3.connect(f"file:{quote_path(path)}?mode=ro", uri=True, check_same_thread=False)


def is_connection(connection: Any) -> bool:
    """Say whether a driver's connection is one to SQLite."""
    return isinstance(connection, sqlite3.Connection)
