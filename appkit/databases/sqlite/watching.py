"""What a statement does to a private copy of a SQLite database, and who opens a file."""
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from appkit.databases import Hears, Statement
from appkit.databases.sqlite.copies import place_asked
from appkit.errors import AppkitError

DDL_COMMITS = False  # whether a statement that changes the schema is committed with it
# SQLite tells what a statement can write to when it is prepared, so each has to be prepared anew.
WATCHED = {"cached_statements": 0}
_STORAGE = "SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"
_WRITES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_DROP_TABLE,
           sqlite3.SQLITE_DROP_VTABLE, sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_CREATE_VTABLE}
_OTHER_WRITES = {sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_DROP_INDEX, sqlite3.SQLITE_CREATE_TRIGGER,
                 sqlite3.SQLITE_DROP_TRIGGER, sqlite3.SQLITE_CREATE_VIEW, sqlite3.SQLITE_DROP_VIEW,
                 sqlite3.SQLITE_REINDEX, sqlite3.SQLITE_ANALYZE}


class Observer:
    """What SQLite tells of one connection's statements: every table that one can write to, and what it made anew.

    Told when a statement is prepared, cascades and triggers included. A file outside of the copy's folder is not
    attached: that is no copy. Source: https://www.sqlite.org/c3ref/set_authorizer.html
    """

    def __init__(self, connection: Any, hears: Hears) -> None:
        self._hears, self._folder = hears, Path(hears.place).parent
        self._storage: dict[str, int] | None = None  # as it was before the first statement
        if not connection.in_transaction:
            # A copy need not outlive the machine: nothing waits for a disk.
            connection.execute("PRAGMA synchronous = OFF")
        connection.set_authorizer(self._authorize)

    def before(self, connection: Connection, _cursor: Any, text: str) -> str:
        """Note how things stand before a statement; give the statement to run."""
        if self._storage is None:
            self._storage = _storage_of(connection)
        return text

    def after(self, connection: Connection, _cursor: Any, statement: Statement) -> None:
        """Add to a statement what was seen of it."""
        if not statement.wrote or statement.repeated:  # of a loop, the first one is enough
            return
        storage = _storage_of(connection)
        moved = {name for name, place in storage.items() if self._storage.get(name, place) != place}
        self._storage.update({name: storage[name] for name in moved})
        statement.rewritten |= moved

    def pass_by(self) -> None:
        """Hear of a statement that is not looked at: the version table's."""

    def take(self) -> None:
        """Hear that somebody takes the connection."""

    def give_back(self) -> None:
        """Hear that the connection is given back."""

    def look_past(self, _statement: Statement) -> None:
        """Look for what was done past SQLAlchemy before a commit: SQLite has told it already."""

    def fail(self) -> None:
        """Hear that a statement has failed."""

    def settle(self, *, committed: bool) -> None:
        """Hear that a transaction has ended."""

    def close(self) -> None:
        """Let go of what observing took."""

    def _authorize(self, action: int, first: str | None, second: str | None, _database: str | None,
                   _by: str | None) -> int:
        if action == sqlite3.SQLITE_ATTACH and not _is_inside(first, self._folder):
            with suppress(AppkitError):  # SQLite passes no exception on: being denied stops the statement
                self._hears.refuse("ATTACH")
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_ALTER_TABLE:
            self._hears.tell(second)
        elif action in _WRITES:
            self._hears.tell(first)
        elif action in _OTHER_WRITES:
            self._hears.tell(None)
        return sqlite3.SQLITE_OK


def _storage_of(connection: Connection) -> dict[str, int]:
    return dict(connection.connection.driver_connection.execute(_STORAGE).fetchall())


def _is_inside(attached: str | None, folder: Path) -> bool:
    if attached is None:
        return False  # a file that is no literal is not told, so it may be any
    place = place_asked((attached,), {"uri": True})
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
        place = place_asked((arguments[0],), {"uri": True})
        if hear := _heard.get(place):
            hear("sqlite3.connect")
