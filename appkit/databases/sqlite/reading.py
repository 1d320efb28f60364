"""Reading SQLite without writing: is there a database, a connection that cannot write, rows that refer to none."""
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from appkit.databases import Table
from appkit.databases.sqlite.copies import place_of
from appkit.databases.sqlite.naming import quote

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


def count_values(connection: Connection, table: Table) -> tuple[int, list[int]]:
    """Count a table's rows, and in each column the values that are not NULL."""
    counts = [f"count({quote(column.name)})" for column in table.columns]
    found = [connection.exec_driver_sql(f"SELECT count(*), {', '.join(counts[start:start + 500])} "
                                        f"FROM main.{quote(table.name)}").one()
             for start in range(0, len(counts), 500)]
    return found[0][0], [count for row in found for count in row[1:]]
