"""Reading MariaDB without writing: a connection that cannot write, rows that refer to none."""
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from appkit.databases import Table
from appkit.databases.mariadb.asking import ask, execute
from appkit.databases.mariadb.catalogue import Reference, read_references
from appkit.databases.mariadb.naming import quote
from appkit.errors import reason_of

_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS, of the protocol
# PAD_CHAR_TO_FULL_LENGTH would add blanks to what is stored.
_SETTINGS = ("time_zone = '+00:00'", "sql_mode = REPLACE(@@sql_mode, 'PAD_CHAR_TO_FULL_LENGTH', '')")


def holds_database(engine: Engine) -> bool:
    """Tell whether there is a database: to connect makes none, and tells better what is wrong."""
    return True


@contextmanager
def reading_only(connection: Connection) -> Iterator[None]:
    """Refuse every write on a connection, as of one moment, and give it back as it was: the pool lends it to others.

    Meanwhile the session's time zone is UTC, so that a TIMESTAMP reads the same everywhere.
    """
    driver = connection.connection.driver_connection
    if getattr(driver, "server_status", 0) & _IN_TRANSACTION:  # to begin another would commit what it has written
        yield
        return
    zone, mode = ask(connection, "SELECT @@time_zone, @@sql_mode")[0]
    for setting in _SETTINGS:
        execute(connection, f"SET SESSION {setting}")
    execute(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    charset = _speak(driver, "utf8mb4")
    try:
        yield
    finally:
        try:
            _take_rest(driver)
            driver.rollback()
            _speak(driver, *charset)
            with _cursor(driver) as cursor:
                cursor.execute("SET SESSION time_zone = %s, sql_mode = %s", (zone, mode))
        except Exception:  # lost: what went wrong is told already, and nobody else shall be lent it
            connection.invalidate()


@contextmanager
def _cursor(driver: Any) -> Iterator[Any]:
    cursor = driver.cursor()
    try:
        yield cursor
    finally:
        cursor.close()


def _take_rest(driver: Any) -> None:
    """Take the rows that nobody has taken: PyMySQL would warn that they are there."""
    unread = getattr(driver, "_result", None)
    if unread is not None and getattr(unread, "unbuffered_active", False):
        try:
            unread._finish_unbuffered_query()
        finally:
            unread.unbuffered_active = False  # of a lost connection, too: else its cursor tries again


def _speak(driver: Any, charset: str, collation: str | None = None) -> tuple[str, str | None]:
    """Have PyMySQL speak a character set, and give the one it spoke: not in UTF-8, texts arrive with ? in them."""
    before = getattr(driver, "charset", charset), getattr(driver, "collation", None)
    if before[0] != charset:
        driver.set_character_set(charset, collation)
    return before


def count_values(connection: Connection, table: Table) -> tuple[int, list[int]]:
    """Count a table's rows, and in each column the values that are not NULL."""
    counts = "".join(f", COUNT({quote(column.name)})" for column in table.columns)
    rows, *values = ask(connection, f"SELECT COUNT(*){counts} FROM {quote(table.name)}")[0]
    return rows, values


def read_orphans(connection: Connection) -> Iterator[tuple[str, str]]:
    """Give what is wrong with the rows that refer to others: a table, and what is wrong.

    With foreign_key_checks off, rows come in that point at nothing.
    """
    found: Counter[tuple[str, str]] = Counter()
    for reference in read_references(connection):
        try:
            found[reference.table, reference.told] += ask(connection, f"SELECT COUNT(*) {orphans_of(reference)}")[0][0]
        except DBAPIError as error:  # the parent, or its column, is not there
            yield reference.table, reason_of(error)
    for (table, parent), rows in sorted(found.items()):
        if rows:
            yield table, f"{rows} rows point at no row of {parent}"


def orphans_of(reference: Reference) -> str:
    """Give the FROM and WHERE of the rows whose parents are missing; the rows' table is c in it."""
    parent = ".".join(quote(part) for part in (reference.schema, reference.parent) if part)
    there = " AND ".join(f"c.{quote(name)} IS NOT NULL" for name in reference.columns)
    same = " AND ".join(f"p.{quote(theirs)} = c.{quote(name)}"
                        for name, theirs in zip(reference.columns, reference.theirs))
    return (f"FROM {quote(reference.table)} c WHERE {there} AND NOT EXISTS "
            f"(SELECT 1 FROM {parent} p WHERE {same})")
