"""Private copies of a SQLite database: how one is made, told from its source, watched and read."""
import math
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote as quote_path
from urllib.parse import unquote

from sqlalchemy import URL, Connection, Engine

from appkit.errors import AppkitError, RehearsalError
from appkit.progress import progress

_PAGES = 10_000  # copied at once: 40 MB, in a moment; between them others may write
_PATIENCE = 10  # seconds
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
# SQLite tells what a statement can write to when it is prepared, so each has to be prepared anew.
WATCHED = {"cached_statements": 0}
_STORAGE = "SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"
_WRITES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_DROP_TABLE,
           sqlite3.SQLITE_DROP_VTABLE, sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_CREATE_VTABLE}
_OTHER_WRITES = {sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_DROP_INDEX, sqlite3.SQLITE_CREATE_TRIGGER,
                 sqlite3.SQLITE_DROP_TRIGGER, sqlite3.SQLITE_CREATE_VIEW, sqlite3.SQLITE_DROP_VIEW,
                 sqlite3.SQLITE_REINDEX, sqlite3.SQLITE_ANALYZE}


def file_of(arguments: tuple, options: dict) -> str | None:
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
    return file_of(*engine.dialect.create_connect_args(engine.url))


def file_behind(connection: Any) -> str | None:
    """Give the file that an open driver connection really has, whatever its engine's URL says."""
    name = next((row[2] for row in connection.execute("PRAGMA database_list") if row[1] == "main"), "")
    return os.path.realpath(name) if name else None


def copy_database(engine: Engine, folder: Path) -> URL:
    """Write a copy of an engine's database, as committed at this moment, into a folder; give its URL.

    The source is read through SQLite's own backup from a connection that cannot write (in memory: through the engine's
    own, which is the only way in). A database without a file yet is copied as an empty one, and stays without.

    Raises
    ------
    RehearsalError
        When SQLite cannot read it, or there is no room for it.

    Source: https://www.sqlite.org/backup.html; a plain copy of the file loses what is in the write-ahead log.
    """
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


def back_up(engine: Engine, revision: str) -> Path | None:
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


def open_readonly(path: str) -> sqlite3.Connection:
    """Open a database file so that nothing can be written through it."""
    return sqlite3.connect(f"file:{quote_path(path)}?mode=ro", uri=True, check_same_thread=False)


def is_connection(connection: Any) -> bool:
    """Say whether a driver's connection is one to SQLite."""
    return isinstance(connection, sqlite3.Connection)


def storage_of(connection: Connection) -> dict[str, int]:
    """Give where each table is stored, as an open transaction sees it."""
    cursor = connection.connection.driver_connection.execute(_STORAGE)
    return dict(cursor.fetchall())


def watch_writes(connection: Any, tell: Callable[[str | None], None], folder: Path,
                 refuse: Callable[[str], None]) -> None:
    """Have SQLite tell of every table that a connection's statements can write to, cascades and triggers included.

    `tell` is called when a statement is prepared, with the table's name, or None for a write that reaches no row;
    `refuse` when it would attach a file outside of a folder: that is no copy.
    Source: https://www.sqlite.org/c3ref/set_authorizer.html
    """
    def authorize(action: int, first: str | None, second: str | None, _database: str | None, _by: str | None) -> int:
        if action == sqlite3.SQLITE_ATTACH and not _is_inside(first, folder):
            with suppress(AppkitError):  # SQLite passes no exception on: being denied stops the statement
                refuse("ATTACH")
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_ALTER_TABLE:
            tell(second)
        elif action in _WRITES:
            tell(first)
        elif action in _OTHER_WRITES:
            tell(None)
        return sqlite3.SQLITE_OK

    if not connection.in_transaction:
        connection.execute("PRAGMA synchronous = OFF")  # a copy need not outlive the machine: nothing waits for a disk
    connection.set_authorizer(authorize)


def _is_inside(attached: str | None, folder: Path) -> bool:
    if attached is None:
        return False  # a file that is no literal is not told, so it may be any
    place = file_of((attached,), {"uri": True})
    return place is None or Path(place).is_relative_to(os.path.realpath(folder))


@contextmanager
def hear_connections(heard: dict[str, Callable[[str], None]]) -> Iterator[None]:
    """Call a function for every connection that is opened to a file, past SQLAlchemy too; it may refuse.

    Source: Python's audit event sqlite3.connect. A hook cannot be taken away again, so there is one, which sleeps.
    """
    global _hooked
    if not _hooked:
        sys.addaudithook(_on_audit)
        _hooked = True
    _heard.update(heard)
    try:
        yield
    finally:
        for place in heard:
            _heard.pop(place, None)


_hooked = False
_heard: dict[str, Callable[[str], None]] = {}


def _on_audit(name: str, arguments: tuple) -> None:
    if name == "sqlite3.connect" and _heard and isinstance(arguments[0], (str, bytes, os.PathLike)):
        place = file_of((arguments[0],), {"uri": True})
        if hear := _heard.get(place):
            hear("sqlite3.connect")
