"""The way to a database: which one a source is, and which file here speaks for it.

Every folder beside this file speaks for one kind of database, by functions of the same names; nothing outside of here
asks which kind it is. A new database is one new folder or file, named as SQLAlchemy names its dialect.
"""
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from appkit.errors import AppkitError, UnsupportedDatabaseError, reason_of

# The dialects that are known, and the folder that speaks for each.
SUPPORTED = {"sqlite": "sqlite", "postgresql": "postgresql", "mariadb": "mariadb", "mysql": "mariadb"}

# The kinds of objects of a catalogue, in the order in which they are listed.
KINDS = ("table", "column", "primary key", "foreign key", "unique", "check", "index", "trigger", "view", "sequence",
         "sequence options", "exclusion", "rule", "policy", "statistics", "materialized view", "enum", "domain", "type",
         "collation", "function", "procedure", "event", "comment", "extension", "schema")

# The drivers that can speak for a URL without one, the first that is installed wins: which one SQLAlchemy
# itself would take depends on its version (psycopg2 under 2.0, psycopg under 2.1).
_DRIVERS = {
    "postgres": ("postgresql", ("psycopg", "psycopg2")),
    "postgresql": ("postgresql", ("psycopg", "psycopg2")),
    "mysql": ("mysql", ("MySQLdb", "pymysql")),
    "mariadb": ("mariadb", ("MySQLdb", "pymysql")),
}


class Entry(NamedTuple):
    """One object of a catalogue: a row of `read_schema`."""

    kind: str
    table: str
    name: str
    definition: str


class Column(NamedTuple):
    """A column as the catalogue declares it."""

    name: str
    type: str
    nullable: bool
    generated: bool = False  # computed by the database from other columns


class Table(NamedTuple):
    """A table that holds rows, as a comparison needs to know it."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]  # the primary key's columns in its own order; empty when there is none
    uniques: tuple[tuple[str, ...], ...]  # the columns of every other unique constraint or full unique index
    parents: tuple[str, ...]  # the tables that its foreign keys refer to
    schema: str = ""  # where that is not the default one; then it is in front of the name, too

    @property
    def bare(self) -> str:
        """The name without the schema."""
        return self.name[len(self.schema) + 1:] if self.schema else self.name


@dataclass
class Lock:
    """A lock on a table that a migration held: from which moment to which, in seconds of time.perf_counter."""

    table: str  # as it was called when the transaction began
    mode: str  # in the database's own words
    since: float
    until: float | None = None
    alone: bool = False  # whether it ended with its statement, whatever transaction came after


@dataclass
class Statement:
    """A statement of a migration, or a run of the same one, with what it did. What was not observed is None."""

    text: str
    seconds: float = 0.0
    rows: int | None = None
    wrote: bool = False
    alone: bool = False  # whether it ran outside of a transaction, which ended before
    repeated: bool = False  # whether the same text was run before
    tables: set[str] = field(default_factory=set)  # that it can have written to
    rewritten: set[str] = field(default_factory=set)
    began: float = 0.0  # in seconds of time.perf_counter
    locks: list[Lock] | None = None  # newly taken
    waits: set[str] | None = None  # who waits from here on: 'readers of post'
    scanned: dict[str, int] | None = None  # rows read by full scans, by table
    wal: int | None = None  # bytes
    algorithm: str | None = None  # what the server accepted: 'INSTANT, LOCK=NONE'
    warnings: list[str] = field(default_factory=list)  # the server's

    def add(self, again: "Statement") -> None:
        """Count another run of the same text together with this one."""
        self.seconds += again.seconds
        if again.rows is not None:
            self.rows = (self.rows or 0) + again.rows
        self.rewritten |= again.rewritten
        self.warnings += [told for told in again.warnings if told not in self.warnings]
        if again.locks is not None:
            self.locks = (self.locks or []) + again.locks
        if again.waits is not None:
            self.waits = (self.waits or set()) | again.waits
        if again.wal is not None:
            self.wal = (self.wal or 0) + again.wal
        for table, rows in (again.scanned or {}).items():
            self.scanned = {**(self.scanned or {}), table: (self.scanned or {}).get(table, 0) + rows}

    @property
    def held(self) -> float | None:
        """The seconds from the first of its locks to the end of the last one."""
        if not self.locks:
            return None if self.locks is None else 0.0
        return max((lock.until or lock.since) - lock.since for lock in self.locks)


class Hears(NamedTuple):
    """Whom an observer tells what it sees of a connection to a copy."""

    place: str  # the copy's
    tell: Callable[[str | None], None]  # a table that is written to; None for a write that reaches no row
    miss: Callable[[], None]  # something that it could not see
    refuse: Callable[[str], None]  # what reaches for another database

    def refuse_statement(self, text: str) -> None:
        """Refuse a statement that does."""
        self.refuse(f"A statement ({' '.join(text.split())[:60]})")


class Obstacle(NamedTuple):
    """What stood in a failed statement's way, as seen at the moment it failed."""

    kind: str  # 'not null', 'unique', 'check', 'foreign key', 'cast' or 'parent' (a table that rows refer to, dropped)
    table: str
    column: str  # or columns, comma-separated; the expression of a check
    what: str
    rows: int
    keys: tuple[str, ...]  # of a few of these rows


_UPPER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def fold(name: str) -> str:
    """Give the form in which identifiers are compared: databases fold ASCII, and not é to É."""
    return name.lower() if name.isascii() else name.translate(_UPPER)


def with_driver(url: str | URL) -> URL:
    """Name the driver of a URL that leaves it open, so that it means the same under SQLAlchemy 2.0 and 2.1."""
    url = make_url(url)
    if url.drivername not in _DRIVERS:
        return url
    dialect, drivers = _DRIVERS[url.drivername]
    driver = next((name for name in drivers if find_spec(name)), drivers[0])
    return url.set(drivername=f"{dialect}+{driver.lower()}")


def _engine_at(url: str | URL) -> Engine:
    try:
        return create_engine(with_driver(url), poolclass=NullPool)
    except (ArgumentError, NoSuchModuleError) as reason:
        raise AppkitError("This text is no database URL. One reads as dialect://user:password@host/name, and for a "
                          "file of SQLite as sqlite:////folder/file.db.") from reason
    except ModuleNotFoundError as reason:
        raise AppkitError(f"The driver for this database is not installed: pip install {reason.name}.") from reason


@contextmanager
def open_source(source: Any = None) -> Iterator[Engine]:
    """Give the engine of a source: a Flask app, an Engine, or a URL; left out, the current app.

    Raises
    ------
    AppkitError
        When there is no current app, or the app has no Flask-SQLAlchemy.
    """
    if isinstance(source, Engine):
        yield source
    elif isinstance(source, (str, URL)):
        engine = _engine_at(source)
        try:
            yield engine
        finally:
            engine.dispose()
    else:
        yield engine_of(app_of(source))


@contextmanager
def open_reading(source: Any = None) -> Iterator[tuple[Connection, ModuleType]]:
    """Give a connection to a source that cannot write, and the module that speaks for its database.

    Raises
    ------
    AppkitError
        When there is no such source, no database in its place, or it cannot be read.
    """
    with open_source(source) as engine:
        database = database_of(engine)
        place = engine.url.render_as_string()  # without the password
        if not database.holds_database(engine):
            raise AppkitError(f"There is no database at {place}. Reading it would make one.")
        try:
            with engine.connect() as connection, database.reading_only(connection):
                yield connection, database
        except DBAPIError as reason:
            raise AppkitError(f"Cannot read the database at {place}: {reason_of(reason)}.") from reason


def app_of(app: Any = None) -> Any:
    """Give the Flask app itself: the one given, or the current one."""
    from flask import Flask, current_app, has_app_context

    if app is None and not has_app_context():
        raise AppkitError("No source was given and no Flask app is current. Pass an app, an Engine or a URL, "
                          "or call this inside `with app.app_context():`.")
    app = current_app if app is None else app
    if not isinstance(app, Flask):
        raise AppkitError(f"{type(app).__name__} is no source. Pass a Flask app, an Engine or a URL.")
    return app._get_current_object() if hasattr(app, "_get_current_object") else app


def engine_of(app: Any) -> Engine:
    """Give the engine that a Flask app's Flask-SQLAlchemy made for it."""
    if "sqlalchemy" not in app.extensions:
        raise AppkitError(f"The app {app.name!r} has no Flask-SQLAlchemy: call db.init_app(app) first.")
    with app.app_context():
        return app.extensions["sqlalchemy"].engine


def database_of(engine: Engine) -> ModuleType:
    """Give the module that speaks for an engine's database.

    Raises
    ------
    UnsupportedDatabaseError
        When there is none.
    """
    name = engine.dialect.name
    if name not in SUPPORTED:
        raise UnsupportedDatabaseError(f"appkit does not know {name!r} databases. It knows: {', '.join(SUPPORTED)}.")
    return import_module(f"appkit.databases.{SUPPORTED[name]}")


def is_missing(engine: Engine) -> bool:
    """Tell whether there is no database yet, and to connect would make one."""
    return engine.dialect.name in SUPPORTED and not database_of(engine).holds_database(engine)


def guard_of(connection: Connection, engines: Iterable[Engine], timeout: float) -> Any:
    """Give what guards a connection while it is migrated; None for a database that is not known here.

    `engines` are the app's own, one of which may have the same database; `timeout` is for how many seconds a lock is
    waited for, 0 as long as the database itself does.
    """
    if connection.dialect.name not in SUPPORTED:
        return None
    return database_of(connection.engine).Guard(connection, engines, timeout)
