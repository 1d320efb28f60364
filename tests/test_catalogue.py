"""A look at the catalogue that takes from an earlier one what no change can have reached."""
import random
from contextlib import closing, suppress

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from appkit.databases.sqlite import read_structure

START = """
CREATE TABLE parent (id INTEGER PRIMARY KEY, code TEXT COLLATE NOCASE UNIQUE, note);
CREATE TABLE child (id INTEGER PRIMARY KEY AUTOINCREMENT, parent_id REFERENCES PARENT ON DELETE CASCADE, name TEXT);
CREATE TABLE grandchild (a, b, PRIMARY KEY (a, b), FOREIGN KEY (a) REFERENCES Child (ID));
CREATE TABLE apart (x INTEGER DEFAULT 1, y TEXT NOT NULL DEFAULT 'a', CHECK (x > 0));
CREATE TABLE orphan (id INTEGER PRIMARY KEY, of_none REFERENCES Nobody);
CREATE VIEW seen AS SELECT id FROM parent;
CREATE INDEX by_name ON child (name);
"""

CHANGES = [
    "CREATE TABLE nobody (Id INTEGER PRIMARY KEY, x)",
    "ALTER TABLE nobody RENAME TO NoBody2",
    "DROP TABLE NoBody2",
    "CREATE TABLE NOBODY (other TEXT, id TEXT, PRIMARY KEY (other, id))",
    "DROP TABLE nobody",
    "ALTER TABLE parent RENAME TO Parents",
    "ALTER TABLE Parents RENAME TO parent",
    "ALTER TABLE parent RENAME COLUMN id TO ID",
    "ALTER TABLE parent RENAME COLUMN ID TO id",
    "ALTER TABLE child RENAME COLUMN id TO number",
    "ALTER TABLE child RENAME COLUMN number TO id",
    "ALTER TABLE apart ADD COLUMN z INTEGER REFERENCES apart (x)",
    "ALTER TABLE apart DROP COLUMN z",
    "ALTER TABLE parent ADD COLUMN more REAL",
    "ALTER TABLE parent DROP COLUMN more",
    "CREATE UNIQUE INDEX one_note ON parent (note)",
    "DROP INDEX one_note",
    "CREATE UNIQUE INDEX one_note ON parent (note) WHERE note IS NOT NULL",
    "DROP INDEX one_note",
    "CREATE INDEX one_note ON parent (note COLLATE NOCASE DESC, \"code\", \"no column\")",
    "DROP INDEX one_note",
    "DROP INDEX by_name",
    "CREATE INDEX by_name ON child (parent_id)",
    "CREATE TRIGGER told AFTER INSERT ON child BEGIN UPDATE parent SET note = 1; END",
    "DROP TRIGGER told",
    "CREATE TRIGGER told BEFORE DELETE ON CHILD BEGIN SELECT 1; END",
    "DROP TRIGGER told",
    "CREATE TRIGGER instead INSTEAD OF INSERT ON SEEN BEGIN SELECT 1; END",
    "DROP VIEW seen",
    "CREATE VIEW seen AS SELECT id, code FROM parent",
    "DROP VIEW seen",
    "CREATE TABLE seen (id INTEGER PRIMARY KEY)",
    "DROP TABLE seen",
    "CREATE VIEW seen AS SELECT id FROM parent",
    "INSERT INTO child (name) VALUES ('a'), ('b')",
    "DELETE FROM child",
    "UPDATE sqlite_sequence SET seq = 40",
    "INSERT INTO sqlite_sequence VALUES ('no table', 3), ('child', 5)",
    "DELETE FROM sqlite_sequence",
    "CREATE VIRTUAL TABLE words USING fts5(body)",
    "CREATE INDEX on_shadow ON words_config (v)",
    "DROP TABLE words",
    "CREATE TABLE words_data (id)",
    "DROP TABLE words_data",
    "CREATE VIRTUAL TABLE words USING fts5(body, title)",
    "ALTER TABLE words RENAME TO texts",
    "DROP TABLE texts",
    "DROP TABLE grandchild",
    "CREATE TABLE grandchild (a REFERENCES parent, b GENERATED ALWAYS AS (a + 1) STORED) STRICT",
    "CREATE TABLE grandchild (a INTEGER REFERENCES parent, b INT GENERATED ALWAYS AS (a + 1) STORED) STRICT",
    "DROP TABLE grandchild",
    "CREATE TABLE grandchild (a, b, PRIMARY KEY (a, b), FOREIGN KEY (a) REFERENCES Child (ID)) WITHOUT ROWID",
    "DROP TABLE parent",
    "CREATE TABLE parent (code TEXT PRIMARY KEY COLLATE NOCASE, note)",
    "DROP TABLE parent",
    "CREATE TABLE Parent (id INTEGER PRIMARY KEY, code, note)",
    "ANALYZE",
    "VACUUM",
]


@pytest.fixture
def connection(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}", poolclass=NullPool)
    with engine.connect() as connection:
        with closing(connection.connection.driver_connection.cursor()) as cursor:
            cursor.executescript(START)
        yield connection


def change(connection, statement):
    connection.exec_driver_sql(statement)
    connection.commit()


def assert_same(found, fresh):
    assert found.tables == fresh.tables
    assert list(found.by_table.items()) == list(fresh.by_table.items())
    assert found.storage == fresh.storage


def test_a_second_look_finds_after_each_change_what_a_first_one_finds(connection):
    first = before = read_structure(connection)
    ran = 0
    for statement in CHANGES:
        with suppress(OperationalError):
            change(connection, statement)
            ran += 1
        before = read_structure(connection, before)
        assert_same(before, read_structure(connection))
        assert_same(read_structure(connection, first), before)
    assert ran >= len(CHANGES) - 4


@pytest.mark.parametrize("seed", range(8))
def test_a_second_look_finds_after_changes_in_any_order_what_a_first_one_finds(connection, seed):
    chance = random.Random(seed)
    # A virtual table without its shadow tables is damaged: no look finds anything then.
    changes = [statement for statement in CHANGES if "words_data" not in statement and statement != "VACUUM"]
    before = read_structure(connection)
    for _ in range(60):
        with suppress(OperationalError):
            change(connection, chance.choice(changes))
        if chance.random() < 0.6:  # at times several changes lie between two looks
            before = read_structure(connection, before)
            assert_same(before, read_structure(connection))


@pytest.mark.parametrize("statement, others", [
    ("ALTER TABLE apart ADD COLUMN z", {"apart"}),
    ("CREATE INDEX one ON parent (note)", {"parent"}),
    ("CREATE UNIQUE INDEX one ON parent (note)", {"parent", "child"}),
    ("CREATE TABLE nobody (id INTEGER PRIMARY KEY)", {"nobody", "orphan"}),
    ("DROP VIEW seen", set()),
])
def test_only_what_a_change_can_have_reached_is_looked_at_again(connection, statement, others):
    before = read_structure(connection)
    change(connection, statement)
    after = read_structure(connection, before)
    assert {name for name, known in after.known.items() if known is not before.known.get(name)} == others
