"""Reading PostgreSQL without writing: a connection that cannot write, values counted, rows that refer to none."""
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from appkit.databases import Table
from appkit.databases.postgresql.naming import quote
from appkit.databases.postgresql.settings import fixed_settings

_UNPROVEN = """
    SELECT k.conrelid::regclass::text, k.confrelid::regclass::text,
        ARRAY(SELECT quote_ident(attname) FROM unnest(k.conkey) WITH ORDINALITY u(n, at)
              JOIN pg_attribute ON attrelid = k.conrelid AND attnum = n ORDER BY at),
        ARRAY(SELECT quote_ident(attname) FROM unnest(k.confkey) WITH ORDINALITY u(n, at)
              JOIN pg_attribute ON attrelid = k.confrelid AND attnum = n ORDER BY at),
        concat_ws('.', nullif(n.nspname, current_schema()), c.relname),
        concat_ws('.', nullif(m.nspname, current_schema()), p.relname)
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace m ON m.oid = p.relnamespace
    WHERE k.contype = 'f' AND c.relkind = 'r' AND n.nspname !~ '^pg_' AND (NOT k.convalidated OR EXISTS (
        SELECT FROM pg_trigger t WHERE t.tgconstraint = k.oid AND t.tgisinternal AND t.tgenabled <> 'O'))
    AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.oid = k.conparentid AND o.conrelid = k.conrelid)
    ORDER BY 5, 6, k.conname"""


def holds_database(engine: Engine) -> bool:
    """Tell whether there is a database: to connect to one that is missing makes none, and says so better."""
    return True


@contextmanager
def reading_only(connection: Connection) -> Iterator[None]:
    """Refuse every write on a connection, and give it back as it was: the pool lends it to others.

    Everything is read as of one moment, unless a transaction runs already. That one goes on afterwards and can write.
    """
    if connection.connection.dbapi_connection.autocommit:
        with _begun(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "ROLLBACK"):
            yield
    elif not connection.in_transaction():
        with _begun(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"):
            yield
    else:
        nested = connection.begin_nested()
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        try:
            yield
        finally:
            nested.rollback()  # what was set after a savepoint ends with the return to it


@contextmanager
def _begun(connection: Connection, begin: str, end: str = "") -> Iterator[None]:
    """Hold a transaction that is rolled back at the end; SQLAlchemy begins one with the first statement, too."""
    idle = not connection.in_transaction()
    connection.exec_driver_sql(begin)
    try:
        yield
    finally:
        if end and not connection.invalidated:
            connection.exec_driver_sql(end)
        if idle:
            connection.rollback()


def count_values(connection: Connection, table: Table) -> tuple[int, list[int]]:
    """Count a table's rows, and in each column the values that are not NULL; those of heirs are not in it."""
    path = ".".join(quote(part) for part in (table.schema, table.bare) if part)
    counts = ", ".join(["count(*)", *(f"count({quote(column.name)})" for column in table.columns)])
    rows, *values = _rows(connection, f"SELECT {counts} FROM ONLY {path}")[0]
    return rows, values


def read_orphans(connection: Connection) -> Iterator[tuple[str, str]]:
    """Give what is wrong with the rows that refer to others: a table, and what is wrong.

    Only foreign keys that are NOT VALID, or whose triggers are disabled, can have such rows.
    """
    with fixed_settings(connection):
        found = []
        for path, parent, columns, theirs, table, name in _rows(connection, _UNPROVEN):
            there = " AND ".join(f"c.{ours} IS NOT NULL" for ours in columns)
            same = " AND ".join(f"p.{their} = c.{ours}" for their, ours in zip(theirs, columns))
            [[rows]] = _rows(connection, f"SELECT count(*) FROM ONLY {path} c WHERE {there} "
                                         f"AND NOT EXISTS (SELECT FROM {parent} p WHERE {same})")
            found += [(table, f"{rows} rows point at no row of {name}")] if rows else []
    yield from found


def _rows(connection: Connection, statement: str) -> list[tuple]:
    return [tuple(row) for row in connection.exec_driver_sql(statement.replace("%", "%%"))]
