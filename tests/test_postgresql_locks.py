"""What stops the app on PostgreSQL: each operation's lock, rewrite and scan, and who waits for it, as observed."""
import time

import pytest
import servers
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from appkit.databases import Hears, Statement
from appkit.databases.postgresql.watching import Observer

ROWS = 100_000
AE, SRE, SHARE, SUE, ROW = ("AccessExclusiveLock", "ShareRowExclusiveLock", "ShareLock", "ShareUpdateExclusiveLock",
                            "RowExclusiveLock")
SCHEMA = (
    "CREATE TABLE parent (id int PRIMARY KEY, code int NOT NULL UNIQUE)",
    "CREATE TABLE child (id int PRIMARY KEY, n int, s varchar(20), amount numeric(10,2), flag boolean, at timestamp, "
    "parent_id int, fixed varchar(50) NOT NULL DEFAULT 'x')",
    "CREATE TABLE other (id int PRIMARY KEY, s text)",
    "CREATE INDEX child_n ON child (n)",
    f"INSERT INTO parent SELECT g, g FROM generate_series(1, {ROWS}) g",
    f"INSERT INTO child SELECT g, g, 's' || g, g, true, '2026-01-01', g FROM generate_series(1, {ROWS}) g",
    "INSERT INTO other SELECT g, 'x' FROM generate_series(1, 10) g",
    "ANALYZE",
)
BOTH = {"readers of child", "writers of child"}
WRITERS = {"writers of child"}
PARENT = {"writers of parent"}

# operation: statements before it in another transaction, the statement, locks, rewritten, scanned, who waits
OPERATIONS = {
    "add a nullable column": ((), "ALTER TABLE child ADD COLUMN new int", {("child", AE)}, False, False, BOTH),
    "add a column with a constant default": (
        (), "ALTER TABLE child ADD COLUMN new int NOT NULL DEFAULT 3", {("child", AE)}, False, False, BOTH),
    "add a column with a volatile default": (
        (), "ALTER TABLE child ADD COLUMN new float8 DEFAULT random()", {("child", AE)}, True, True, BOTH),
    "add a serial": ((), "ALTER TABLE child ADD COLUMN new serial", {("child", AE)}, True, True, BOTH),
    "add an identity": (
        (), "ALTER TABLE child ADD COLUMN new int GENERATED ALWAYS AS IDENTITY", {("child", AE)}, True, True, BOTH),
    "add a stored generated column": (
        (), "ALTER TABLE child ADD COLUMN new int GENERATED ALWAYS AS (n + 1) STORED", {("child", AE)}, True, True,
        BOTH),
    "add a column with a check": (
        (), "ALTER TABLE child ADD COLUMN new int CHECK (new > 0)", {("child", AE)}, False, True, BOTH),
    "add a column that refers": (
        (), "ALTER TABLE child ADD COLUMN new int REFERENCES parent (id)", {("child", AE), ("parent", SRE)}, False,
        False, BOTH | PARENT),
    "drop a column": ((), "ALTER TABLE child DROP COLUMN n", {("child", AE)}, False, False, BOTH),
    "rename a column": ((), "ALTER TABLE child RENAME COLUMN n TO m", {("child", AE)}, False, False, BOTH),
    "set a default": ((), "ALTER TABLE child ALTER COLUMN n SET DEFAULT 3", {("child", AE)}, False, False, BOTH),
    "widen a varchar": ((), "ALTER TABLE child ALTER COLUMN s TYPE varchar(40)", {("child", AE)}, False, False, BOTH),
    "varchar to text": ((), "ALTER TABLE child ALTER COLUMN s TYPE text", {("child", AE)}, False, False, BOTH),
    "raise a precision": (
        (), "ALTER TABLE child ALTER COLUMN amount TYPE numeric(12,2)", {("child", AE)}, False, False, BOTH),
    "int to bigint": ((), "ALTER TABLE child ALTER COLUMN n TYPE bigint", {("child", AE)}, True, True, BOTH),
    "narrow a varchar": ((), "ALTER TABLE child ALTER COLUMN s TYPE varchar(10)", {("child", AE)}, True, True, BOTH),
    "change a scale": (
        (), "ALTER TABLE child ALTER COLUMN amount TYPE numeric(10,1)", {("child", AE)}, True, True, BOTH),
    "bool to int": (
        (), "ALTER TABLE child ALTER COLUMN flag TYPE int USING flag::int", {("child", AE)}, True, True, BOTH),
    "timestamp to timestamptz outside UTC": (
        ("SET TIME ZONE 'Europe/Berlin'",), "ALTER TABLE child ALTER COLUMN at TYPE timestamptz", {("child", AE)}, True,
        True, BOTH),
    "timestamp to timestamptz in UTC": (
        ("SET TIME ZONE 'UTC'",), "ALTER TABLE child ALTER COLUMN at TYPE timestamptz", {("child", AE)}, False, False,
        BOTH),
    "set not null": ((), "ALTER TABLE child ALTER COLUMN n SET NOT NULL", {("child", AE)}, False, True, BOTH),
    "set not null after a validated check": (
        ("ALTER TABLE child ADD CONSTRAINT there CHECK (n IS NOT NULL)",),
        "ALTER TABLE child ALTER COLUMN n SET NOT NULL", {("child", AE)}, False, False, BOTH),
    "add a check": ((), "ALTER TABLE child ADD CHECK (n > 0)", {("child", AE)}, False, True, BOTH),
    "add a check, not valid": ((), "ALTER TABLE child ADD CHECK (n > 0) NOT VALID", {("child", AE)}, False, False, BOTH),
    "unique using an index": (
        ("CREATE UNIQUE INDEX child_u ON child (n)",), "ALTER TABLE child ADD UNIQUE USING INDEX child_u",
        {("child", AE)}, False, False, BOTH),
    "create an index": ((), "CREATE INDEX child_s ON child (s)", {("child", SHARE)}, False, True, WRITERS),
    "add a foreign key": (
        (), "ALTER TABLE child ADD FOREIGN KEY (parent_id) REFERENCES parent (id)", {("child", SRE), ("parent", SRE)},
        False, True, WRITERS | PARENT),
    "add a foreign key, not valid": (
        (), "ALTER TABLE child ADD FOREIGN KEY (parent_id) REFERENCES parent (id) NOT VALID",
        {("child", SRE), ("parent", SRE)}, False, False, WRITERS | PARENT),
    "validate a constraint": (
        ("ALTER TABLE child ADD CONSTRAINT pos CHECK (n > 0) NOT VALID",), "ALTER TABLE child VALIDATE CONSTRAINT pos",
        {("child", SUE)}, False, True, set()),
    "drop a table": ((), "DROP TABLE child", {("child", AE)}, False, False, BOTH),
    "drop an index": ((), "DROP INDEX child_n", {("child", AE)}, False, False, BOTH),
    "truncate": ((), "TRUNCATE child", {("child", AE)}, None, False, BOTH),
    "rename a table": ((), "ALTER TABLE child RENAME TO kid", {("child", AE)}, False, False, BOTH),
    "update every row": (
        (), "UPDATE child SET n = n + 1", {("child", ROW)}, False, True, {"writers of the same rows of child"}),
    "look": ((), "SELECT count(*) FROM child", {("child", "AccessShareLock")}, False, True, set()),
}


@pytest.fixture(params=["15", "18"], scope="module")
def engine(request):
    url = servers.new_database(servers.postgresql(request.param))
    servers.execute(url, *SCHEMA)
    engine = sa.create_engine(url, poolclass=NullPool)
    yield engine
    engine.dispose()
    servers.drop_database(url)


def observe(engine, before, text, *, commit=False):
    """Run a statement in a transaction, observed; give what was seen of it, and the tables told as written to."""
    told = set()
    with engine.connect() as connection:
        observer = Observer(connection.connection.driver_connection, Hears("here", told.add, pytest.fail, pytest.fail))
        for each in before:
            observer.before(connection, None, each)
            connection.exec_driver_sql(each)
            observer.after(connection, None, Statement(each))
            connection.commit()
            observer.settle(committed=True)
        try:
            statement = Statement(text)
            observer.before(connection, None, text)
            statement.began = time.perf_counter()
            connection.exec_driver_sql(text)
            observer.after(connection, None, statement)
            connection.commit() if commit else connection.rollback()
            observer.settle(committed=commit)
        finally:
            observer.close()
    return statement, told


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_takes_the_lock_and_does_the_work_that_is_known_of_it(engine, operation):
    before, text, locks, rewritten, scanned, waits = OPERATIONS[operation]
    try:
        statement, _ = observe(engine, before, text)
    finally:
        with engine.begin() as connection:
            for undo in ("ALTER TABLE child DROP CONSTRAINT IF EXISTS there", "DROP INDEX IF EXISTS child_u",
                         "ALTER TABLE child DROP CONSTRAINT IF EXISTS pos"):
                connection.exec_driver_sql(undo)
    strongest = {(lock.table, lock.mode) for lock in statement.locks}
    assert locks <= strongest and {table for table, _ in strongest} <= {"child", "parent"}
    if rewritten is not None:
        assert ("child" in statement.rewritten) == rewritten
    assert ("child" in statement.scanned) == scanned
    assert statement.waits == waits
    assert statement.held > 0 and all(lock.until >= lock.since for lock in statement.locks)
