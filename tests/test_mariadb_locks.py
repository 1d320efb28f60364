"""What stops the app on MariaDB: the first algorithm and lock that the server accepts, rebuilds, and who waits."""
import time

import pytest
import servers
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from appkit.databases import Hears, Statement
from appkit.databases.mariadb.watching import Observer

SCHEMA = (
    "CREATE TABLE parent (id int PRIMARY KEY)",
    "CREATE TABLE child (id int PRIMARY KEY, n int, m int, s varchar(20), wide varchar(60), amount decimal(10,2), "
    "kind enum('a', 'b'), parent_id int, fixed int NOT NULL) CHARACTER SET utf8mb4",
    "CREATE TABLE other (id int PRIMARY KEY)",
    "INSERT INTO parent SELECT seq FROM seq_1_to_1000",
    "INSERT INTO child SELECT seq, seq, seq, 'x', 'y', 1.5, 'a', seq, 1 FROM seq_1_to_1000",
)
WRITERS = {"writers of child"}
# operation: the first rung that MariaDB 10.11 accepts, whether the table is rebuilt, who waits
LADDER = {
    "ALTER TABLE child ADD COLUMN new int": ("INSTANT, LOCK=NONE", False, set()),
    "ALTER TABLE child DROP COLUMN m": ("INSTANT, LOCK=NONE", False, set()),
    "ALTER TABLE child RENAME COLUMN n TO n2": ("INSTANT, LOCK=NONE", False, set()),
    "ALTER TABLE child MODIFY s varchar(50)": ("INSTANT, LOCK=NONE", False, set()),
    "ALTER TABLE child MODIFY kind enum('a', 'b', 'c')": ("INSTANT, LOCK=NONE", False, set()),
    "ALTER TABLE child ALTER COLUMN n SET DEFAULT 5": ("INSTANT, LOCK=NONE", False, set()),
    "ALTER TABLE child MODIFY n int COMMENT 'told'": ("INSTANT, LOCK=NONE", False, set()),
    "CREATE INDEX child_n ON child (n)": ("NOCOPY, LOCK=NONE", False, set()),
    "CREATE UNIQUE INDEX child_u ON child (n)": ("NOCOPY, LOCK=NONE", False, set()),
    "ALTER TABLE child MODIFY n int NOT NULL": ("INPLACE, LOCK=NONE", True, set()),
    "ALTER TABLE child DROP PRIMARY KEY, ADD PRIMARY KEY (fixed, id)": ("INPLACE, LOCK=NONE", True, set()),
    "ALTER TABLE child MODIFY n bigint": ("COPY, LOCK=SHARED", True, WRITERS),
    "ALTER TABLE child MODIFY wide varchar(70)": ("COPY, LOCK=SHARED", True, WRITERS),  # across 255 bytes
    "ALTER TABLE child MODIFY amount decimal(12,3)": ("COPY, LOCK=SHARED", True, WRITERS),
    "ALTER TABLE child MODIFY kind enum('b', 'a')": ("COPY, LOCK=SHARED", True, WRITERS),
    "ALTER TABLE child ADD FOREIGN KEY (parent_id) REFERENCES parent (id)": ("COPY, LOCK=SHARED", True, WRITERS),
    "ALTER TABLE child ADD CHECK (n > 0)": ("COPY, LOCK=SHARED", True, WRITERS),
    "ALTER TABLE child CONVERT TO CHARACTER SET latin1": ("COPY, LOCK=SHARED", True, WRITERS),
}


@pytest.fixture
def engine():
    url = servers.new_database(servers.mariadb())
    servers.execute(url, *SCHEMA)
    engine = sa.create_engine(url, poolclass=NullPool)
    yield engine
    engine.dispose()
    servers.drop_database(url)


def observe(engine, text):
    """Run a statement, observed; give what was seen of it, and the tables told as written to."""
    told = set()
    with engine.connect() as connection:
        observer = Observer(connection.connection.driver_connection, Hears("here", told.add, pytest.fail, pytest.fail))
        statement = Statement(text)
        run = observer.before(connection, None, text)
        statement.began = time.perf_counter()
        statement.rows = connection.exec_driver_sql(run).rowcount
        observer.after(connection, None, statement)
        connection.commit()
        observer.settle(committed=True)
        observer.close()
    return statement, told


@pytest.mark.parametrize("text", LADDER)
def test_each_operation_is_done_by_the_first_rung_that_the_server_accepts(engine, text):
    algorithm, rebuilt, waits = LADDER[text]
    statement, told = observe(engine, text)
    assert statement.algorithm == algorithm
    assert ("child" in statement.rewritten) == rebuilt
    assert {wait for wait in statement.waits if "child" in wait} == waits
    assert "child" in told and "other" not in told
    assert statement.seconds > 0


def test_a_statement_that_fails_on_every_rung_fails_as_itself(engine):
    with pytest.raises(sa.exc.DBAPIError, match="1146"):
        observe(engine, "ALTER TABLE missing ADD COLUMN new int")
    with pytest.raises(sa.exc.IntegrityError, match="1062"):
        observe(engine, "ALTER TABLE child ADD UNIQUE (kind)")


def test_what_is_said_of_the_algorithm_is_left_as_it_is(engine):
    statement, _ = observe(engine, "ALTER TABLE child ADD COLUMN new int, ALGORITHM=COPY")
    assert statement.algorithm is None and "child" in statement.rewritten


def test_a_note_in_strict_mode_is_told(engine):
    statement, _ = observe(engine, "ALTER TABLE child MODIFY amount decimal(10,0)")
    assert any("1265" in told for told in statement.warnings)


def test_an_update_locks_rows_until_the_transaction_ends_and_tells_all_that_it_may_reach(engine):
    servers.execute(engine.url, "CREATE TRIGGER t AFTER UPDATE ON child FOR EACH ROW INSERT INTO other VALUES (NEW.id)")
    statement, told = observe(engine, "UPDATE child SET n = n + 1")
    assert statement.waits == {"writers of the same rows of child"} and statement.held > 0
    assert {"child", "other"} <= told and statement.scanned == {"child": 1000}


def test_an_update_of_a_table_that_nothing_hangs_on_tells_it_alone(engine):
    _, told = observe(engine, "UPDATE child SET n = n + 1")
    assert told == {"child"}
    _, told = observe(engine, "UPDATE child SET n = 5 WHERE id = -1")
    assert told == set()


def test_dropping_and_renaming_a_table_stops_everybody_for_a_moment(engine):
    statement, told = observe(engine, "RENAME TABLE child TO kid")
    assert statement.waits == {"readers of child", "writers of child"} and {"child", "kid"} <= told


REACHES = {  # what a statement reaches that it does not name, or that the handlers do not count
    "UPDATE seen SET n = (SELECT max(id) FROM other)": {"child"},
    "UPDATE other SET id = id + 1000 + reach()": {"child", "other"},
    "DELETE FROM heap": {"heap"},
    "CALL empty_it()": {"heap"},
    "INSERT INTO other SELECT 7 + reach()": {"child", "other"},
}


@pytest.mark.parametrize("text", REACHES)
def test_what_a_statement_reaches_unnamed_is_told(engine, text):
    servers.execute(engine.url, "CREATE VIEW seen AS SELECT id, n FROM child", "INSERT INTO other VALUES (1)",
                    "CREATE TABLE heap (id int PRIMARY KEY) ENGINE=MyISAM", "INSERT INTO heap VALUES (1), (2)",
                    "CREATE FUNCTION reach() RETURNS int BEGIN UPDATE child SET n = 0; RETURN 0; END",
                    "CREATE PROCEDURE empty_it() DELETE FROM heap")
    assert REACHES[text] <= observe(engine, text)[1]
