"""SQLite's rows through ADBC: the same values of the same kinds as SQLite says, and nobody's locks are let go."""
import fcntl
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from appkit import AppkitError, read_table
from appkit.aside import can_run_aside, run_aside
from appkit.batches import Batch
from appkit.databases import open_reading
from appkit.databases.sqlite import rows

ASIDE = pytest.mark.skipif(not can_run_aside(), reason="threads with files of their own cannot be had here")
TYPES = ["INTEGER", "TEXT", "REAL", "NUMERIC(10, 2)", "BLOB", "", "BOOLEAN", "DATETIME", "JSON", "DATE", "VARCHAR(9)"]
VALUES = st.one_of(
    st.none(), st.integers(-2**63, 2**63 - 1), st.sampled_from([0, 1, -1, 2**53 + 1, 2**63 - 1, -2**63]),
    st.floats(allow_nan=False), st.sampled_from([1.0, 1.5, -0.0, float("inf"), float("-inf"), 9007199254740992.0]),
    st.text(max_size=5), st.sampled_from(["", "1", "1.0", "a\0b", "before all", "2026-01-01 00:00:00", "1969-12-31"]),
    st.binary(max_size=4), st.sampled_from([b"", b"1", b"\xff", b"\0\xff\0"]))
# As SQLite takes them: a value, or text whose bytes are no UTF-8.
STORED = st.one_of(VALUES, st.builds(lambda tail: ("CAST", b"\xff" + tail), st.binary(max_size=3)))


@pytest.fixture(autouse=True)
def every_table_is_large(monkeypatch) -> None:
    monkeypatch.setattr(rows, "_FEW", 0)
    monkeypatch.setattr(rows, "_ROWS", 4)


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """Note each time that ADBC is asked for rows: its number of readers."""
    seen = []

    def noted(tasks: list) -> Iterator:
        seen.append(len(tasks))
        return run_aside(tasks)
    monkeypatch.setattr(rows, "run_aside", noted)
    return seen


def make(path: Path, columns: list[str], values: list[tuple], before: str = "id INTEGER PRIMARY KEY") -> Path:
    path.unlink(missing_ok=True)
    declared = ", ".join(f"c{place} {type_}" for place, type_ in enumerate(columns))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE t ({before}, {declared})")
        for row in values:
            marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, tuple) else "?" for value in row)
            plain = [value[1] if isinstance(value, tuple) else value for value in row]
            connection.execute(f"INSERT INTO t ({', '.join(f'c{n}' for n in range(len(row)))}) VALUES ({marks})", plain)
        connection.commit()
    return path


def as_found(batches: list[Batch]) -> list[tuple]:
    """Every value as (kind, repr of its value), row by row."""
    found = []
    for batch in batches:
        columns = [[next(((kind, value) for kind, value in zip(parts, each) if value is not None), ("", None))
                    for each in zip(*(part.to_pylist() for part in parts.values()))] or [("", None)] * batch.rows
                   for parts in batch.columns]
        found += zip(*columns)
    return found


def check(path: Path, found: list[tuple]) -> None:
    """Have SQLite compare: each value IS what is stored, and of the same storage class."""
    classes = {"": "null", "i": "integer", "r": "real", "t": "text", "b": "blob", "x": "text"}
    with closing(sqlite3.connect(path)) as connection:
        stored = connection.execute("SELECT rowid FROM t ORDER BY rowid").fetchall()
        assert len(stored) == len(found)
        for (rowid,), row in zip(stored, sorted(found)):
            for place, (kind, value) in enumerate(row[1:]):
                mark = "CAST(? AS TEXT)" if kind == "x" else "?"
                same = connection.execute(f"SELECT c{place} IS {mark}, typeof(c{place}) FROM t WHERE rowid = ?",
                                          (value, rowid)).fetchone()
                assert same == (1, classes[kind]), (rowid, place, kind, value)


@ASIDE
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_value_is_what_sqlite_says_it_is(tmp_path_factory, data):
    columns = data.draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=4))
    values = data.draw(st.lists(st.tuples(*[STORED] * len(columns)), min_size=1, max_size=12))
    path = make(tmp_path_factory.mktemp("rows") / "t.db", columns, values)
    url = sa.URL.create("sqlite", database=str(path))
    with open_reading(url) as (connection, database):
        table = database.read_tables(connection)[0]
        ordered = database.read_ordered(connection, table, table.columns)
    check(path, as_found(ordered))
    assert as_found(ordered) == sorted(as_found(ordered))
    check(path, as_found(list(rows.read_copy(sa.create_engine(url, poolclass=sa.NullPool), table))))


@ASIDE
@pytest.mark.parametrize("first, later", [
    ([1] * 1500, 1.5), ([None] * 1500, "x"), ([1.5] * 1500, 2**53 + 1), (["x"] * 1500, 5), (["x"] * 1500, b"ab"),
    ([b"ab"] * 1500, "x"), ([1, "x"] * 700, 2.5), ([None] * 1500, b"\xff"), ([1] * 70_000, "late"),
], ids=["integers, real", "nulls, text", "reals, large integer", "texts, integer", "texts, bytes", "bytes, text",
        "both at first, real", "nulls, bytes", "in the second batch"])
@pytest.mark.parametrize("declared", ["INTEGER", "TEXT", "REAL", "", "DATETIME"])
def test_what_the_first_rows_hold_decides_nothing(tmp_path, monkeypatch, asked, declared, first, later):
    monkeypatch.setattr(rows, "_ROWS", 700)
    path = make(tmp_path / "t.db", [declared], [(value,) for value in [*first, later]])
    url = sa.URL.create("sqlite", database=str(path))
    with open_reading(url) as (connection, database):
        table = database.read_tables(connection)[0]
        found = as_found(database.read_ordered(connection, table, table.columns))
    with closing(sqlite3.connect(path)) as connection:
        stored = connection.execute("SELECT id, typeof(c0), c0 FROM t ORDER BY id").fetchall()
    told = {"i": "integer", "r": "real", "t": "text", "b": "blob", "": "null"}
    assert [(row[0][1], told[row[1][0]], repr(row[1][1])) for row in found] == \
        [(number, kind, repr(value)) for number, kind, value in stored]
    assert asked == [2]


@ASIDE
@pytest.mark.parametrize("before", [
    "id INTEGER PRIMARY KEY", '"rowid" TEXT, id INTEGER PRIMARY KEY', "rowid TEXT, _rowid_ TEXT, oid TEXT, id INTEGER PRIMARY KEY",
    "id TEXT", "id INTEGER PRIMARY KEY DESC", "id INT PRIMARY KEY"])
def test_a_copy_is_read_whatever_its_row_numbers_are_called(tmp_path, asked, before):
    path = make(tmp_path / "t.db", ["TEXT"], [("a",), ("b",), (None,)], before)
    url = sa.URL.create("sqlite", database=str(path))
    with open_reading(url) as (connection, database):
        table = database.read_tables(connection)[0]
    found = [row[-1] for row in as_found(list(rows.read_copy(sa.create_engine(url, poolclass=sa.NullPool), table)))]
    assert sorted(found, key=repr) == [("", None), ("t", "a"), ("t", "b")]
    assert len(asked) == 1


@ASIDE
def test_an_app_keeps_its_lock_while_the_table_is_read_beside_it(tmp_path, asked):
    path = make(tmp_path / "t.db", ["TEXT"], [("a",)] * 10)
    app = sqlite3.connect(path, isolation_level=None)
    app.execute("BEGIN IMMEDIATE")
    app.execute("INSERT INTO t (c0) VALUES ('not committed')")
    assert len(read_table(f"sqlite:///{path}", "t")) == 10
    assert asked == [2]
    other = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
    tried = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
    assert "database is locked" in tried.stderr
    app.execute("ROLLBACK")
    app.close()


@ASIDE
def test_a_database_that_is_being_written_is_waited_for(tmp_path, asked):
    path = make(tmp_path / "t.db", ["TEXT"], [("a",)] * 10)
    app = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    app.execute("BEGIN EXCLUSIVE")
    app.execute("INSERT INTO t (c0) VALUES ('b')")
    timer = threading.Timer(0.5, app.execute, ["COMMIT"])
    timer.start()
    assert len(read_table(f"sqlite:///{path}", "t")) == 11
    timer.join()
    app.close()


@ASIDE
def test_readers_that_may_see_different_moments_are_not_believed(tmp_path, monkeypatch):
    path = make(tmp_path / "t.db", ["TEXT"], [("a",)] * 10)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    begin = rows._count_kinds

    write = f"import sqlite3; c = sqlite3.connect({str(path)!r}); c.execute(\"INSERT INTO t (c0) VALUES ('b')\"); c.commit()"

    def write_first(*arguments: object) -> list[str]:
        subprocess.run([sys.executable, "-c", write], check=True)
        return begin(*arguments)
    monkeypatch.setattr(rows, "_count_kinds", write_first)
    url = f"sqlite:///{path}"
    with open_reading(url) as (connection, database):
        table = database.read_tables(connection)[0]
        assert database.read_ordered(connection, table, table.columns) is None
    assert len(read_table(url, "t")) == 14  # each of two readers has written one before it began, twice


@ASIDE
def test_a_column_that_needs_the_app_s_own_function_is_read_by_the_app_s_own_driver(tmp_path, asked):
    path = tmp_path / "t.db"
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    sa.event.listen(engine, "connect", lambda driver, _: driver.create_function("twice", 1, lambda n: 2 * n,
                                                                               deterministic=True))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER AS (twice(id)))")
        connection.exec_driver_sql("INSERT INTO t VALUES (1), (2)")
    assert read_table(engine, "t")["n"].tolist() == [2, 4]
    assert asked == []


@ASIDE
def test_what_a_converter_of_the_app_makes_stays_what_it_makes(tmp_path, asked):
    path = make(tmp_path / "t.db", ["MOOD"], [("good",)])
    sqlite3.register_converter("MOOD", lambda stored: stored.decode().upper())
    try:
        engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool,
                                  connect_args={"detect_types": sqlite3.PARSE_DECLTYPES})
        assert read_table(engine, "t")["c0"].tolist() == ["GOOD"]
    finally:
        del sqlite3.converters["MOOD"]


@ASIDE
def test_both_ways_give_the_same_frame(tmp_path, monkeypatch, asked):
    columns = ["INTEGER", "TEXT", "REAL", "NUMERIC(10, 2)", "BLOB", "BOOLEAN", "DATETIME", "DATE", "JSON"]
    row = (2**53 + 1, "a\0b", 0.1, 1.5, b"\xff", 1, "2026-01-02 03:04:05.000006", "1969-12-31", "{}")
    path = make(tmp_path / "t.db", columns, [row, (None,) * 9, row])
    url = f"sqlite:///{path}"
    quick = read_table(url, "t")
    assert asked == [1]
    monkeypatch.setattr(rows, "_FEW", 20_000)
    pd.testing.assert_frame_equal(quick, read_table(url, "t"))
    assert asked == [1]


@ASIDE
def test_a_file_may_be_called_anything(tmp_path, asked):
    path = make(tmp_path / "odd #%3F? &'\" ü.db", ["TEXT"], [("é",)] * 10)
    assert read_table(sa.URL.create("sqlite", database=str(path)), "t")["c0"].tolist() == ["é"] * 10
    assert asked == [2]


@ASIDE
def test_batches_of_large_values_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_BYTES", 100_000)
    path = make(tmp_path / "t.db", ["BLOB", "TEXT"], [(bytes(90_000), "é" * 10)] * 5 + [(b"", "x")] * 50)
    url = sa.URL.create("sqlite", database=str(path))
    with open_reading(url) as (connection, database):
        table = database.read_tables(connection)[0]
    batches = list(rows.read_copy(sa.create_engine(url, poolclass=sa.NullPool), table))
    assert sum(batch.rows for batch in batches) == 55
    assert max(sum(part.nbytes for parts in batch.columns for part in parts.values()) for batch in batches) < 110_000


# ---- the driver's own way, and what the threads leave


def test_chunks_are_the_table_in_pieces(tmp_path):
    path = make(tmp_path / "t.db", ["TEXT"], [(f"é{n}",) for n in range(25)])
    url = f"sqlite:///{path}"
    pieces = list(read_table(url, "t", chunks=10))
    assert [len(piece) for piece in pieces] == [10, 10, 5]
    pd.testing.assert_frame_equal(pd.concat(pieces), read_table(url, "t"), check_index_type=False)
    assert [len(piece) for piece in read_table(url, "t", chunks=10, limit=12, where="id > 3")] == [10, 2]


def test_chunks_hold_text_that_is_no_utf8(tmp_path):
    path = make(tmp_path / "t.db", ["TEXT"], [("a",), (("CAST", b"\xff"),), ("b",)])
    assert [value for piece in read_table(f"sqlite:///{path}", "t", chunks=1) for value in piece["c0"]] == \
        ["a", b"\xff", "b"]


def test_an_empty_table_is_one_empty_typed_chunk(tmp_path):
    path = make(tmp_path / "t.db", ["DATETIME"], [])
    piece, = read_table(f"sqlite:///{path}", "t", chunks=10)
    assert piece.dtypes.astype(str).to_dict() == {"id": "Int64", "c0": "datetime64[us]"} and not len(piece)


@pytest.mark.parametrize("chunks", [0, -1, True, 1.5, "10"])
def test_a_size_of_chunks_that_is_none_is_refused_at_once(tmp_path, chunks):
    path = make(tmp_path / "t.db", ["TEXT"], [])
    with pytest.raises(AppkitError, match="chunks="):
        read_table(f"sqlite:///{path}", "t", chunks=chunks)


def test_a_table_can_be_written_again_once_the_chunks_are_left(tmp_path):
    path = make(tmp_path / "t.db", ["TEXT"], [("a",)] * 10)
    engine = sa.create_engine(f"sqlite:///{path}")
    pieces = read_table(engine, "t", chunks=2)
    next(pieces)
    del pieces
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM t")
    engine.dispose()


@ASIDE
def test_what_runs_aside_neither_holds_nor_closes_the_files_of_others(tmp_path):
    locked = open(tmp_path / "file", "w+")
    fcntl.lockf(locked, fcntl.LOCK_EX)
    seen = list(run_aside([lambda give: give(Path(f"/proc/thread-self/fd/{locked.fileno()}").exists())]))
    assert seen == [False]
    locked.write("still open")
    locked.close()


@ASIDE
def test_what_is_raised_aside_is_raised_here_and_no_thread_stays():
    def fail(give: object) -> None:
        raise LookupError("as asked")

    before = threading.active_count()
    with pytest.raises(LookupError, match="as asked"):
        list(run_aside([fail, lambda give: [give(1) for _ in range(100)]]))
    taken = run_aside([lambda give: [give(n) for n in range(1000)]])
    assert next(taken) == 0
    taken.close()
    assert threading.active_count() == before
    import gc
    assert gc.isenabled()
