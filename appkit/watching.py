"""Watching a copy: what each statement did there, and nothing at all on the source."""
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import Pool

from appkit.databases import Hears, Statement, fold
from appkit.errors import SourceTouchedError

_ROWS = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE|SELECT|WITH)\b", re.IGNORECASE)
_ASKS = re.compile(r"\s*(SELECT|SHOW|SET|PRAGMA|DESC|DESCRIBE|EXPLAIN|BEGIN|SAVEPOINT|RELEASE)\b", re.IGNORECASE)
# What Alembic writes to its version table, and nothing more: no subquery, no second statement.
_VERSION = (r"(UPDATE {table} SET \w+='[^']*' WHERE {table}\.\w+ = '[^']*'"
            r"|INSERT INTO {table} \(\w+\) VALUES \('[^']*'\)( RETURNING {table}\.\w+)?"
            r"|DELETE FROM {table} WHERE {table}\.\w+ = '[^']*')")
_COMMENT = re.compile(r"\s*(?:(?:--|#)[^\n]*(?:\n|$)|/\*(?![!+M]).*?\*/)", re.DOTALL)
_FOLD = 8  # how far back the same statement is counted together: a loop may alternate between a few


def _place_behind(database: ModuleType) -> Callable[[Engine], str | None]:
    def place(engine: Engine) -> str | None:
        found = database.place_of(engine)
        if found is None:  # by its URL it is in memory; an engine that makes its own connections may be anywhere
            with closing(engine.raw_connection()) as pooled:
                found = database.place_behind(pooled.driver_connection)
        return found
    return place


def _without_comments(text: str) -> str:
    """Take off the comments before a statement, which would hide its kind; not those that a server or driver reads."""
    bare = text
    while comment := _COMMENT.match(bare):
        if "/*" in comment.group()[2:] or set("%?") & set(comment.group()):
            return text
        bare = bare[comment.end():]
    return bare if bare.strip() else text


class Died(BaseException):
    """The migration's process has died, as far as the migration can tell."""


class Watch:
    """What happens on a copy while the block runs; a connection to the source is refused.

    `statements` and `failed` are those since the last `begin()`.
    """

    def __init__(self, database: ModuleType, copy: Engine, sources: list[Engine]) -> None:
        self._database, self._copy, self._sources = database, copy, sources
        self._copy_place = database.place_of(copy)
        self._source_places = {place for place in map(_place_behind(database), sources) if place}
        self.version_table = "alembic_version"  # until env.py has told
        # Threads that were there before may be the app itself, at work; those that start now are the migration's.
        self._others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        self._exit = ExitStack()
        self.refused: str | None = None
        self._observers: list[Any] = []
        self._ending: dict[Any, bool] = {}  # observers whose transactions are about to end: whether by a commit
        self._pausing = False
        self.dies_before: int | None = None  # which of the statements that write; never, if None
        self.begin()

    def begin(self) -> None:
        """Forget what was seen so far."""
        self.began = time.perf_counter()
        self.statements: list[Statement] = []
        self.failed: Statement | None = None
        self.obstacle: Any = None  # as the database's file tells it
        self.touched: set[str] = set()  # tables, in lower case
        self._now = threading.local()
        self._seen: set[str] = set()
        self._unwatched = 0
        self.writing: list[str] = []  # the statements that write, but for the version table's, as they came

    @property
    def all_seen(self) -> bool:
        """Whether every connection to the copy was watched: what one past SQLAlchemy wrote is not known."""
        return self._unwatched == 0

    def __enter__(self) -> "Watch":
        listeners = [(Engine, "do_connect", self._on_do_connect, {}), (Pool, "connect", self._on_connect, {}),
                     (Pool, "checkout", self._on_checkout, {}), (Pool, "checkin", self._on_checkin, {}),
                     (Pool, "detach", self._on_detach, {}), (Pool, "close", self._on_close, {}),
                     (Engine, "commit", self._on_commit, {}), (Engine, "rollback", self._on_rollback, {}),
                     (Engine, "before_cursor_execute", self._on_before, {"retval": True}),
                     (Engine, "after_cursor_execute", self._on_after, {}), (Engine, "handle_error", self._on_error, {})]
        for target, name, listener, options in listeners:
            event.listen(target, name, listener, **options)
            self._exit.callback(event.remove, target, name, listener)
        heard = {place: self._refuse for place in self._source_places} | {self._copy_place: self._on_open}
        self._exit.enter_context(self._database.hear_connections(heard))
        return self

    def __exit__(self, *_details: object) -> None:
        self._exit.close()
        for observer in self._observers:
            observer.close()

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Pass over the statements and connections in the block: they are not the migration's."""
        before, self._pausing = self._pausing, True
        try:
            yield
        finally:
            self._pausing = before

    # ---- the source

    def _refuse(self, who: str) -> None:
        if not self._here():
            return
        self.refused = (f"{who} reached for the real database while its migrations were rehearsed on a copy. It was "
                        "refused. Take the engine or the URL from current_app, as Flask-Migrate's env.py does, so that "
                        "a rehearsal can put the copy in its place.")
        raise SourceTouchedError(self.refused)

    def _here(self) -> bool:
        return threading.get_ident() not in self._others

    @property
    def _running(self) -> list[tuple[Any, Statement]]:
        """The statements that this thread runs, each with its cursor: what hears of one may run others before it."""
        if not hasattr(self._now, "running"):
            self._now.running = []
        return self._now.running

    def _ended(self, cursor: Any) -> Statement | None:
        """Give the statement of a cursor, and forget it, and those within it that never ended."""
        place = next((place for place, (each, _) in enumerate(self._running) if each is cursor), None)
        if place is None:
            return None
        statement = self._running[place][1]
        del self._running[place:]
        return statement

    def _on_do_connect(self, dialect: Any, _record: Any, arguments: list, options: dict) -> None:
        if not self._here() or dialect.name != self._copy.dialect.name:
            return
        place = self._database.place_asked(tuple(arguments), options)
        if place in self._source_places:
            self._refuse("An engine")
        elif place == self._copy_place:
            options.update(self._database.WATCHED)

    def _on_connect(self, connection: Any, record: Any) -> None:
        if not self._database.is_connection(connection):
            return
        place = self._database.place_behind(connection)
        if place in self._source_places:
            self._refuse("An engine that makes its own connections")
        if place == self._copy_place and not self._pausing:
            self._unwatched -= 1
            with self.pausing():  # it may open a connection of its own
                record.info["appkit"] = self._database.Observer(
                    connection, Hears(self._copy_place, self._tell, self._miss, self._refuse))
            self._observers.append(record.info["appkit"])

    def _on_checkout(self, _connection: Any, record: Any, _fairy: Any) -> None:
        if observer := record.info.get("appkit"):
            observer.take()

    def _on_close(self, _connection: Any, record: Any) -> None:
        observer = record.info.pop("appkit", None)
        if observer is not None:
            self._ending.pop(observer, None)
            observer.settle(committed=False)
            observer.close()
            self._observers.remove(observer)

    def _on_detach(self, _connection: Any, record: Any) -> None:
        if "appkit" in record.info:  # from here on nothing is heard of it
            self._miss()

    # ---- the copy

    def _on_open(self, _who: str) -> None:
        if not self._pausing:
            self._unwatched += 1

    def _tell(self, table: str | None) -> None:
        if table:
            self.touched.add(fold(table))
        if self._running:
            statement = self._running[-1][1]
            statement.wrote = True
            if table:
                statement.tables.add(table)

    def _miss(self) -> None:
        """Hear that something ran that was not watched."""
        if not self._pausing:
            self._unwatched += 1

    def _on_before(self, connection: Connection, cursor: Any, text: str, parameters: Any, *_more: Any) -> tuple:
        if not self._here():
            return text, parameters
        if any(connection.engine.pool is source.pool for source in self._sources):
            self._refuse("A connection that was already open")
        observer = connection.info.get("appkit")
        if observer and not self._pausing:
            self.settle()
            text = _without_comments(text)
            if self._is_version(text):
                observer.pass_by()
                return text, parameters
            statement = Statement(text, repeated=text in self._seen)
            self._note_writing(text)
            self._running.append((cursor, statement))
            text = observer.before(connection, cursor, text)
            statement.began = time.perf_counter()
        return text, parameters

    def _note_writing(self, text: str) -> None:
        version = rf"\s*\w+\s+(\w+\s+)?[\"`]?{re.escape(self.version_table)}\b"
        if _ASKS.match(text) or re.match(version, text, re.IGNORECASE):
            return
        self.writing.append(text)
        if self.dies_before == len(self.writing):
            raise Died(f"before {' '.join(text.split())[:160]}")

    def _on_after(self, connection: Connection, cursor: Any, *_more: Any) -> None:
        statement = self._ended(cursor)
        if statement is None:
            return
        statement.seconds += time.perf_counter() - statement.began
        statement.rows = cursor.rowcount if cursor.rowcount >= 0 else None
        self._running.append((cursor, statement))  # what is told of it now is still its own
        connection.info["appkit"].after(connection, cursor, statement)
        self._ended(cursor)
        self._seen.add(statement.text)
        if self._worth_telling(statement):
            self._add(statement)

    def _on_commit(self, connection: Connection) -> None:
        if observer := connection.info.get("appkit"):
            if self._here() and not self._pausing:
                self._look_past(observer)
            self._ending[observer] = True

    def _look_past(self, observer: Any) -> None:
        """Look, before a commit, at what has been done since the last statement."""
        statement = Statement("")
        self._running.append((statement, statement))
        observer.look_past(statement)
        self._ended(statement)
        if {fold(name) for name in statement.tables} - {fold(self.version_table)}:
            self._miss()

    def _on_rollback(self, connection: Connection) -> None:
        if connection.invalidated:  # its server is gone
            return
        if observer := connection.info.get("appkit"):
            self._ending[observer] = False

    def _on_checkin(self, _connection: Any, record: Any) -> None:
        if observer := record.info.get("appkit"):
            self._ending.setdefault(observer, False)
            self.settle()
            observer.give_back()

    def settle(self) -> None:
        """Take note of the transactions that have ended: SQLAlchemy tells only that they are about to."""
        while self._ending:
            observer, committed = self._ending.popitem()
            observer.settle(committed=committed)

    def _is_version(self, text: str) -> bool:
        table = rf"(?:[\"`]?[\w$]+[\"`]?\.)?[\"`]?{re.escape(self.version_table)}[\"`]?"
        return re.fullmatch(_VERSION.format(table=table), text) is not None

    def _worth_telling(self, statement: Statement) -> bool:
        if {fold(name) for name in statement.tables} - {"sqlite_master"} == {fold(self.version_table)}:
            return False
        return statement.wrote or not re.match(
            r"\s*(PRAGMA|BEGIN|SAVEPOINT|RELEASE|SHOW|DESC|SELECT\b.*(\b(sqlite_version|sqlite_master|pg_catalog|"
            rf"information_schema|current_schema|DATABASE|VERSION|{re.escape(self.version_table)})\b|@@))",
            statement.text, re.IGNORECASE | re.DOTALL)

    def _add(self, statement: Statement) -> None:
        rows_only = _ROWS.match(statement.text)  # the order of renames and the like tells what became of what
        for before in self.statements[-_FOLD:] if rows_only else ():
            if before.text == statement.text:
                before.add(statement)
                return
        self.statements.append(statement)

    def _on_error(self, context: Any) -> None:
        execution = context.execution_context
        statement = self._ended(execution.cursor) if execution else None
        if statement is None:
            return
        statement.seconds += time.perf_counter() - statement.began
        self.failed = statement
        context.connection.info["appkit"].fail()
        with self.pausing():  # asking why is not part of what the migration did
            self.obstacle = self._database.find_obstacle(context.connection, str(context.original_exception),
                                                         statement.text)
