"""A SQLite connection under migration: real transactions, and foreign keys that are checked instead of acting."""
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection, Engine

from appkit.databases.sqlite.orphans import describe_new, find_orphans, read
from appkit.errors import OrphanedRowsError

_LEGACY = -1  # sqlite3.LEGACY_TRANSACTION_CONTROL, which Python 3.11 does not have
_FIRST_WORD = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)
_READ = {"SELECT", "PRAGMA", "EXPLAIN", "VALUES"}
_END = {"COMMIT", "END"}
# What orphans no row: so that a history of new tables is not checked at every revision.
_HARMLESS = re.compile(r"\s*(CREATE\s+(UNIQUE\s+)?(TABLE|INDEX)|"
                       r"(INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+alembic_version)\b", re.IGNORECASE)
_OUTSIDE = {"BEGIN", "VACUUM", "ATTACH", "DETACH"}  # begins by itself, or cannot run in a transaction


class Guard:
    """A SQLite connection under migration: real transactions, and foreign keys that are checked instead of acting.

    The driver begins a transaction only for INSERT, UPDATE and DELETE, so that every DDL statement is committed at
    once; and a DROP TABLE deletes the rows first, with all that cascades from them. Foreign keys cannot be switched
    off inside a transaction. Source: https://www.sqlite.org/lang_altertable.html#otheralter
    """

    def __init__(self, connection: Connection, engines: Iterable[Engine], _timeout: float) -> None:
        self._raw = connection.connection.dbapi_connection
        self._autocommit = getattr(self._raw, "autocommit", _LEGACY)
        self._acting = _foreign_keys(self._raw)
        self._checked = self._acting or _app_acts(connection, engines)
        self._level = _isolation_option(connection)
        self._begun = False
        self._orphans: Counter | None = None  # before the first write of the transaction
        self._found: tuple[Any, Counter] | None = None  # by the last check, and the state of the database then

    def before(self, connection: Connection, statement: str) -> None:
        """Make ready for a statement."""
        word = _FIRST_WORD.match(statement)[1].upper()
        if word in _READ:
            return  # so that a command that only looks takes no lock and checks nothing
        if word in _END:
            self.check()
            return
        if not (self._begun and self._raw.in_transaction):
            self._begin(connection, word)
        if self._orphans is None and self._checked and word not in _OUTSIDE and not _HARMLESS.match(statement):
            known = self._found is not None and self._found[0] == _state(self._raw)
            self._orphans = self._found[1] if known else find_orphans(self._raw)

    def _begin(self, connection: Connection, word: str) -> None:
        if self._raw.in_transaction and self._acting:
            self._raw.commit()  # of what env.py, or who shares this connection, had open: else the PRAGMA does nothing
        if self._autocommit != _LEGACY:
            self._raw.autocommit = True  # ends the transaction that this mode always has open
            self._raw.autocommit = _LEGACY
        self._begun = True
        if self._raw.in_transaction:
            return
        _pragma(self._raw, "foreign_keys=OFF")
        in_autocommit_block = _isolation_option(connection) == "AUTOCOMMIT" != self._level
        if word not in _OUTSIDE and not in_autocommit_block:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def check(self) -> None:
        """Refuse what has been written since the transaction began if it orphans rows."""
        before, self._orphans, self._begun = self._orphans, None, False
        if before is None:
            return
        after = find_orphans(self._raw)
        self._found = _state(self._raw), after
        told = describe_new(self._raw, before, after)
        if not told:
            return
        fate = "Nothing of it was committed" if self._raw.in_transaction else "An autocommit_block has committed them"
        raise OrphanedRowsError(
            f"The migration leaves rows whose foreign key points at nothing: {'; '.join(told)}. {fate}. While a "
            "migration runs no ON DELETE acts: delete these rows, or point them elsewhere, in the same revision.")

    def undo(self) -> None:
        """Roll back, whatever SQLAlchemy takes this connection's mode for."""
        self._orphans, self._begun = None, False
        self._raw.rollback()

    def explain(self, _error: BaseException, _statement: str) -> None:
        """Add nothing to an error: SQLite does not tell who is in the way."""

    def run(self, migrate: Callable[..., None], *arguments: Any, **options: Any) -> None:
        """Run a revision's function, once: it begins with the lock that it needs."""
        return migrate(*arguments, **options)

    def release(self) -> None:
        """Give the connection its own ways back."""
        self.undo()  # SQLAlchemy need not have done so after a commit that failed
        if self._acting:
            _pragma(self._raw, "foreign_keys=ON")
        if self._autocommit != _LEGACY:
            self._raw.autocommit = self._autocommit


def _isolation_option(connection: Connection) -> str | None:
    return connection.get_execution_options().get("isolation_level")


def _pragma(raw: Any, text: str) -> None:
    raw.execute(f"PRAGMA {text}").close()


def _state(raw: Any) -> tuple:
    """Give what changes with every change of the rows: by other connections, and by this one."""
    return read(raw, "PRAGMA data_version")[0][0], raw.total_changes


def _foreign_keys(raw: Any) -> bool:
    return bool(read(raw, "PRAGMA foreign_keys")[0][0])


def _app_acts(connection: Connection, engines: Iterable[Engine]) -> bool:
    """Tell whether the app enforces foreign keys on the database for which env.py made an engine of its own."""
    for engine in engines:
        if engine is not connection.engine and engine.url == connection.engine.url:
            with engine.connect() as other:
                return _foreign_keys(other.connection.dbapi_connection)
    return False
