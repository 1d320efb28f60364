"""Reading rows of SQLite exactly: each value as it is stored, or as its column declares it when every value fits."""
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Engine, Executable
from sqlalchemy.exc import OperationalError

from appkit.databases.sqlite.copies import place_of

# The first that matches says what a declared type means. What none matches (no type at all, UUID, POINT) means
# nothing here: such columns are read by what is stored in them.
_MEANINGS = [(re.compile(pattern), meaning) for pattern, meaning in (
    (r"BOOL", "boolean"),
    (r"DATETIME|TIMESTAMP", "datetime"),
    (r"DATE$", "date"),
    (r"TIME$", "time"),
    (r"JSON", "text"),
    (r"((TINY|SMALL|MEDIUM|BIG|UNSIGNED BIG) ?)?INT(EGER|\d*)( UNSIGNED)?$", "integer"),
    (r".*(CHAR|CLOB|TEXT)|ENUM$", "text"),
    (r".*(BLOB|BINARY)", "bytes"),
    (r"REAL|FLOAT|DOUBLE", "real"),
    (r"NUMERIC|DECIMAL", "decimal"),
)]
_STORED = {int: "integer", float: "real", str: "text"}
_CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"


def holds_database(engine: Engine) -> bool:
    """Tell whether there is a database: to connect to a file that is missing would make one.

    In a folder that is missing none can be made: the connection says so better.
    """
    place = place_of(engine)
    return place is None or os.path.exists(place) or not os.path.isdir(os.path.dirname(place))


@contextmanager
def reading_only(connection: Connection) -> Iterator[None]:
    """Refuse every write on a connection, and give it back as it was: the pool lends it to others."""
    driver = connection.connection.driver_connection
    before = driver.execute("PRAGMA query_only").fetchone()[0]
    factories = driver.text_factory, driver.row_factory
    driver.execute("PRAGMA query_only=ON")
    driver.text_factory, driver.row_factory = str, None
    try:
        yield
    finally:
        driver.text_factory, driver.row_factory = factories
        driver.execute(f"PRAGMA query_only={before}")


def read_rows(connection: Connection, statement: Executable) -> tuple[list[str], list[tuple]] | None:
    """Give the names of a statement's columns and its rows as sqlite3 gives them; None when it has no rows to give.

    The driver's own cursor is read, so that no type of SQLAlchemy alters a value. Text that is not UTF-8 comes as
    bytes.
    """
    try:
        return _read(connection, statement)
    except (sqlite3.OperationalError, OperationalError) as error:
        if "Could not decode" not in str(error):
            raise
    # Only now, because a function called for every text is slow.
    connection.connection.driver_connection.text_factory = _decode
    return _read(connection, statement)


def _read(connection: Connection, statement: Executable) -> tuple[list[str], list[tuple]] | None:
    with connection.execute(statement) as result:
        if not result.returns_rows:
            return None
        return [column[0] for column in result.cursor.description], result.cursor.fetchall()


def _decode(stored: bytes) -> str | bytes:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


def read_orphans(connection: Connection) -> Iterator[tuple[str, str]]:
    """Give what is wrong with the rows that refer to others: a table, and what is wrong."""
    tables = connection.exec_driver_sql("SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name")
    for (table,) in tables.all():
        quoted = table.replace('"', '""')
        try:
            rows = connection.exec_driver_sql(f'PRAGMA main.foreign_key_check("{quoted}")').all()
        except OperationalError as error:  # the columns referred to are no key, or not there
            yield table, str(error.orig)
            continue
        for parent, count in sorted(Counter(row[2] for row in rows).items()):
            yield table, f"{count} rows point at no row of {parent}"


def understand(declared: str | None, values: Sequence) -> tuple[str, Sequence]:
    """Give what a column's values are, and the values as that: 'object' and as they are stored where one does not fit.

    The words: integer, boolean, real, text, datetime; object for anything else, as Python has it: dates, times,
    decimals and bytes too.
    """
    found = set(map(type, values)) - {type(None)}
    meaning = _meaning_of(declared)
    if meaning in _PARSERS:
        parsed = _parse(values, _PARSERS[meaning])
        return ("object", values) if parsed is None else ("datetime" if meaning == "datetime" else "object", parsed)
    if meaning == "boolean" and found <= {int}:
        return "boolean" if {None, 0, 1}.issuperset(values) else "integer", values
    stored = _STORED.get(next(iter(found)), "object") if len(found) == 1 else "object"
    if meaning in _STORED.values():
        return meaning if stored == meaning or not found else "object", values
    return stored if meaning is None else "object", values


def _meaning_of(declared: str | None) -> str | None:
    name = re.sub(r"\s*\(.*", "", declared or "", flags=re.DOTALL).strip().upper()
    return next((meaning for pattern, meaning in _MEANINGS if pattern.match(name)), None)


def _parse(values: Sequence, parse: Callable[[Any], Any]) -> list | None:
    try:
        return [None if value is None else parse(value) for value in values]
    except (ValueError, TypeError, ArithmeticError):
        return None


def _iso(kind: type, pattern: str) -> Callable[[Any], Any]:
    matches, parse = re.compile(pattern).fullmatch, kind.fromisoformat

    def parsed(value: Any) -> Any:
        if type(value) is kind:  # an engine whose own converters (detect_types) have parsed it already
            return value
        # fromisoformat alone takes more: '2026-01-01' for a datetime, '2026-W01' for a date, zones, digits beyond.
        if not matches(value):
            raise ValueError(value)
        return parse(value)
    return parsed


def _decimal(value: Any) -> Decimal:
    if isinstance(value, (int, Decimal)):
        return Decimal(value)
    if isinstance(value, float):
        return Decimal(repr(value))  # the shortest that is stored as this very number
    raise TypeError(value)


_PARSERS = {
    "datetime": _iso(datetime, rf"{_DAY}[ T]{_CLOCK}"),
    "date": _iso(date, _DAY),
    "time": _iso(time, _CLOCK),
    "decimal": _decimal,
}
