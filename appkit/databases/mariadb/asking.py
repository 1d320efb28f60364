"""Statements for a server that are taken as they are: drivers would look for parameters behind a %."""
from typing import Any

from sqlalchemy import Connection, CursorResult


def execute(connection: Connection, statement: str) -> CursorResult:
    """Run a statement."""
    if connection.dialect.paramstyle in ("format", "pyformat"):
        statement = statement.replace("%", "%%")
    return connection.exec_driver_sql(statement)


def ask(connection: Connection, statement: str) -> list[Any]:
    """Give the rows of a statement."""
    return list(execute(connection, statement).all())


def ask_named(connection: Connection, statement: str) -> list[dict[str, Any]]:
    """Give the rows of a statement by the names of their columns, in lower case."""
    found = execute(connection, statement)
    names = [name.lower() for name in found.keys()]
    return [dict(zip(names, row)) for row in found]
