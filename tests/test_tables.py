"""Tables and queries as typed frames: every value as SQLite has it."""
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.pool import StaticPool

import appkit
from appkit import AppkitError, Post, UnknownTableError, User, create_app, db, list_tables, read_query, read_table
from appkit.databases import engine_of

HOSTILE = ['select', 'a b', 'we"ird', "it's", "100%s %(x)s", ":name", "naïve ✓", "<b>", "[x]", "a.b", "c0", "`", "\\"]


def _make(path: Path, *statements: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return f"sqlite:///{path}"


def _column(path: Path, declared: str, *values: object) -> pd.Series:
    url = _make(path / "one.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, c {declared})")
    with closing(sqlite3.connect(path / "one.db")) as connection:
        connection.executemany("INSERT INTO t (c) VALUES (?)", [(value,) for value in values])
        connection.commit()
    return read_table(url, "t")["c"]


@pytest.fixture
def app(tmp_path: Path) -> Iterator:
    app = create_app(f"sqlite:///{tmp_path / 'app.db'}")
    with app.app_context():
        db.create_all()
        db.session.add_all([User(id=n, username=f"u{n}", email=f"e{n}") for n in (3, 1, 2)])
        db.session.flush()
        db.session.add(Post(id=1, author_id=2, title="t", created_at=datetime(2026, 1, 2, 3, 4, 5, 6)))
        db.session.commit()
        yield app
    engine_of(app).dispose()


# list_tables


def test_list_tables_counts_rows_and_columns(app):
    expected = pd.DataFrame({"table": pd.array(["post", "user"], "string"), "rows": pd.array([1, 3], "Int64"),
                             "columns": pd.array([5, 3], "Int64")})
    pd.testing.assert_frame_equal(list_tables(app), expected)
    pd.testing.assert_frame_equal(list_tables(), expected)


def test_list_tables_of_an_empty_database_has_its_columns(tmp_path):
    listed = list_tables(_make(tmp_path / "empty.db", "PRAGMA user_version = 1"))
    assert listed.empty
    assert listed.dtypes.astype(str).to_dict() == {"table": "string", "rows": "Int64", "columns": "Int64"}


def test_a_database_that_is_missing_is_told_and_not_made(tmp_path):
    for read in (list_tables, lambda url: read_table(url, "t"), lambda url: read_query(url, "SELECT 1")):
        with pytest.raises(AppkitError, match="There is no database at"):
            read(f"sqlite:///{tmp_path / 'typo.db'}")
    assert not list(tmp_path.iterdir())


# read_table: which rows


def test_read_table_orders_by_primary_key(app):
    assert read_table(app, "user")["id"].tolist() == [1, 2, 3]


def test_read_table_orders_by_a_composite_key_in_its_own_order(tmp_path):
    url = _make(tmp_path / "x.db", "CREATE TABLE t (a, b, PRIMARY KEY (b, a)) WITHOUT ROWID",
                "INSERT INTO t VALUES (1, 9), (2, 8), (1, 8)")
    assert read_table(url, "t").to_numpy().tolist() == [[1, 8], [2, 8], [1, 9]]


def test_without_a_key_all_columns_order_the_rows(tmp_path):
    url = _make(tmp_path / "x.db", "CREATE TABLE t (a, b)", "INSERT INTO t VALUES (2, 1), (1, 2), (1, 1), (NULL, 5)")
    assert read_table(url, "t")["b"].tolist() == [5, 1, 2, 1]


def test_where_several_keys_are_null_the_rest_orders(tmp_path):
    url = _make(tmp_path / "x.db", "CREATE TABLE t (k TEXT PRIMARY KEY, v)",
                "INSERT INTO t VALUES (NULL, 2), (NULL, 1)")
    assert read_table(url, "t")["v"].tolist() == [1, 2]


def test_inside_an_app_context_the_table_alone_is_enough(app):
    assert len(read_table("user")) == len(read_table(None, "user")) == len(read_table(table="user")) == 3


def test_outside_of_one_a_table_must_be_named():
    with pytest.raises(AppkitError, match="Which table"):
        read_table("user")
    with pytest.raises(AppkitError, match="no Flask app is current"):
        read_table(None, "user")


def test_an_engine_and_a_url_are_sources_too(app):
    pd.testing.assert_frame_equal(read_table(db.engine, "user"), read_table(db.engine.url, "user"))


@pytest.mark.parametrize("where, ids", [
    ("id > 1", [2, 3]), ("username = 'u1' -- or not", [1]), ("email <> ':x' AND id % 2 = 1", [1, 3]),
    (User.id > 1, [2, 3]), (User.username.in_(["u1", "u3"]), [1, 3]), (sa.column("id") == 2, [2]), (sa.false(), []),
    (User.id.in_(sa.select(Post.author_id)), [2]), (sa.exists().where(Post.author_id == User.id), [2]),
    (User.id.in_(sa.select(sa.func.max(sa.orm.aliased(User).id))), [3]),
])
def test_where_takes_text_and_expressions(app, where, ids):
    assert read_table(app, "user", where=where)["id"].tolist() == ids


def test_a_condition_on_another_table_is_refused(app):
    with pytest.raises(AppkitError, match="other tables than 'user'"):
        read_table(app, "user", where=Post.id == 1)


def test_columns_and_limit_choose(app):
    chosen = read_table(app, "user", columns=["email", "id"], limit=2)
    assert chosen.columns.tolist() == ["email", "id"] and chosen["id"].tolist() == [1, 2]
    assert read_table(app, "user", limit=0).dtypes.equals(read_table(app, "user").dtypes)


@pytest.mark.parametrize("limit", [-1, 1.5, "1", True])
def test_a_limit_that_is_no_number_of_rows_is_refused(app, limit):
    with pytest.raises(AppkitError, match="limit="):
        read_table(app, "user", limit=limit)


def test_unknown_table_names_the_known_ones(app):
    with pytest.raises(UnknownTableError, match="No table 'users'. This database has: post, user."):
        read_table(app, "users")


def test_unknown_column_names_the_known_ones(app):
    with pytest.raises(AppkitError, match="No column 'name' in the table 'user'. It has: id, username, email."):
        read_table(app, "user", columns=["id", "name"])


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_of_a_table_and_a_column_works(tmp_path, name):
    quoted = '"' + name.replace('"', '""') + '"'
    url = _make(tmp_path / "x.db", f"CREATE TABLE {quoted} ({quoted} INTEGER, other TEXT)",
                f"INSERT INTO {quoted} VALUES (2, 'b'), (1, NULL)")
    assert list_tables(url)["table"].tolist() == [name]
    read = read_table(url, name, columns=["other", name], where=f"{quoted} > 0")
    assert read.columns.tolist() == ["other", name] and read[name].tolist() == [1, 2]


# read_table: what the values are


@pytest.mark.parametrize("declared, dtype, values, expected", [
    ("INTEGER", "Int64", [2**53 + 1, None, -2**63, 2**63 - 1], [2**53 + 1, pd.NA, -2**63, 2**63 - 1]),
    ("BIGINT UNSIGNED", "Int64", [1], [1]),
    ("BOOLEAN", "boolean", [0, 1, None], [False, True, pd.NA]),
    ("VARCHAR(10)", "string", ["é", "", "a\0b", None], ["é", "", "a\0b", pd.NA]),
    ("JSON", "string", ['{"a": 1}', None], ['{"a": 1}', pd.NA]),
    ("DOUBLE PRECISION", "Float64", [0.1, float("inf"), 3, None], [0.1, float("inf"), 3.0, pd.NA]),
    ("DATETIME", "datetime64[us]", ["2026-01-02 03:04:05.000006", "9999-12-31T23:59:59", "0001-01-01 00:00", None],
     [datetime(2026, 1, 2, 3, 4, 5, 6), datetime(9999, 12, 31, 23, 59, 59), datetime(1, 1, 1), pd.NaT]),
    ("DATE", "object", ["2026-01-02", "0001-01-01", None], [date(2026, 1, 2), date(1, 1, 1), None]),
    ("TIME", "object", ["03:04:05.500000", None], [time(3, 4, 5, 500000), None]),
    ("NUMERIC(10, 2)", "object", [1.1, 3, 2**53 + 1, None], [Decimal("1.1"), Decimal(3), Decimal(2**53 + 1), None]),
    ("BLOB", "object", [b"\x00\xff", None], [b"\x00\xff", None]),
    ("", "Int64", [1, None], [1, pd.NA]),
    ("", "object", [None], [None]),
    ("INTEGER", "Int64", [None], [pd.NA]),
    ("DATETIME", "datetime64[us]", [None], [pd.NaT]),
])
def test_the_declared_type_decides(tmp_path, declared, dtype, values, expected):
    read = _column(tmp_path, declared, *values)
    assert str(read.dtype) == dtype
    assert list(map(repr, read.tolist())) == list(map(repr, pd.Series(expected, dtype=object if dtype == "object" else
                                                                     read.dtype).tolist()))


@pytest.mark.parametrize("declared, values", [
    ("INTEGER", [1, "abc"]), ("INTEGER", [2**53 + 1, 1.5, None]), ("INTEGER", [b"1"]), ("BOOLEAN", [1, "yes"]),
    ("BOOLEAN", [1, 0.5]), ("DATETIME", ["2026-01-01 00:00:00", 2026]), ("DATETIME", ["2026"]),
    ("DATETIME", ["2026-01-01"]), ("DATETIME", ["10000-01-01 00:00:00"]), ("DATETIME", ["2026-02-30 00:00:00"]),
    ("DATETIME", ["2026-01-01 00:00:00+02:00"]), ("DATETIME", ["2026-01-01 00:00:00\n"]), ("DATETIME", [1767225600]),
    ("DATE", ["20260101"]), ("DATE", ["2026-W01"]), ("TIME", ["25:00"]), ("NUMERIC", [1, "abc"]), ("NUMERIC", [b"1"]),
    ("TEXT", ["a", b"a"]), ("JSON", ["{}", 5]), ("REAL", [1.0, "x"]), ("", [1, 1.0, "1", b"1", None]),
    ("BLOB", ["a", b"a"]),
])
def test_a_value_that_does_not_fit_leaves_all_as_stored(tmp_path, declared, values):
    read = _column(tmp_path, declared, *values)
    with closing(sqlite3.connect(tmp_path / "one.db")) as connection:
        stored = [value for value, in connection.execute("SELECT c FROM t ORDER BY id")]
    assert read.dtype == object
    assert list(map(repr, read.tolist())) == list(map(repr, stored))


def test_booleans_beyond_0_and_1_stay_integers(tmp_path):
    read = _column(tmp_path, "BOOLEAN", 0, 2, None)
    pd.testing.assert_series_equal(read, pd.Series([0, 2, pd.NA], dtype="Int64", name="c"))


def test_text_that_is_not_utf8_comes_as_bytes(tmp_path):
    url = _make(tmp_path / "x.db", "CREATE TABLE t (a TEXT, b TEXT)",
                "INSERT INTO t VALUES ('é', 'fine'), (CAST(x'ff61' AS TEXT), 'fine')")
    read = read_table(url, "t")
    assert read["a"].tolist() == ["é", b"\xffa"] and read["a"].dtype == object
    assert read["b"].dtype == "string"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["INTEGER", "TEXT", "REAL", "BLOB", "NUMERIC", "BOOLEAN", "DATETIME", ""]),
       st.lists(st.none() | st.integers(-2**63, 2**63 - 1) | st.floats(allow_nan=False) | st.binary(max_size=4)
                | st.text(st.characters(codec="utf-8"), max_size=6) | st.datetimes().map(str), max_size=6))
def test_no_value_is_ever_altered(tmp_path_factory, declared, values):
    folder = tmp_path_factory.mktemp("any")
    read = _column(folder, declared, *values)
    with closing(sqlite3.connect(folder / "one.db")) as connection:
        stored = [value for value, in connection.execute("SELECT c FROM t ORDER BY id")]
    assert [pd.isna(value) for value in read] == [value is None for value in stored]
    for value, original in zip(read.tolist(), stored):
        if original is not None:
            assert _as_stored(value, original)


def _as_stored(value: object, original: object) -> bool:
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime() == datetime.fromisoformat(original)
    if isinstance(value, Decimal):
        return type(original)(value) == original
    if isinstance(value, bool):
        return int(value) == original
    return value == original and isinstance(value, type(original))


# read_query


def test_read_query_takes_text_with_parameters(app):
    read = read_query(app, "SELECT id, username AS name FROM user WHERE id IN :ids OR email = :mail ORDER BY id",
                      {"ids": [1, 3], "mail": "e2"})
    assert read.dtypes.astype(str).tolist() == ["Int64", "string"] and read["name"].tolist() == ["u1", "u2", "u3"]


def test_read_query_takes_selects_of_models_with_their_types(app):
    read = read_query(app, sa.select(Post))
    assert read.dtypes.astype(str).to_dict() == {"id": "Int64", "author_id": "Int64", "title": "string",
                                                 "body": "string", "created_at": "datetime64[us]"}
    assert read["created_at"].tolist() == [pd.Timestamp("2026-01-02 03:04:05.000006")]
    since = sa.select(Post.id).where(Post.created_at >= datetime(2026, 1, 2))
    assert read_query(None, since)["id"].tolist() == [1]


def test_a_moment_as_parameter_meets_what_is_stored(app):
    found = read_query(app, "SELECT id FROM post WHERE created_at = :at", {"at": datetime(2026, 1, 2, 3, 4, 5, 6)})
    assert found["id"].tolist() == [1]


def test_two_columns_of_one_name_both_come(app):
    read = read_query(app, "SELECT id AS x, email AS x FROM user ORDER BY id LIMIT 1")
    assert read.columns.tolist() == ["x", "x"] and read.iloc[0].tolist() == [1, "e1"]


def test_a_query_without_rows_keeps_its_columns(app):
    assert read_query(app, "SELECT id, email FROM user WHERE 0").columns.tolist() == ["id", "email"]


@pytest.mark.parametrize("statement", [
    "DELETE FROM user", "WITH x AS (SELECT 1) DELETE FROM user", "-- SELECT\nDELETE FROM user", "PRAGMA query_only=OFF",
    "PRAGMA user_version=7", "COMMIT", "", "VACUUM", sa.delete(User), sa.text("DROP TABLE post"), sa.insert(User),
    "WITH x AS (SELECT 1) INSERT INTO user SELECT 9, 'a', 'b' RETURNING id",
])
def test_nothing_can_be_written(app, statement):
    with pytest.raises(AppkitError, match="only read"):
        read_query(app, statement)
    assert list_tables(app)["rows"].tolist() == [1, 3]


def test_a_connection_that_was_read_can_write_again(app):
    with pytest.raises(AppkitError):
        read_query(app, "WITH x AS (SELECT 1) DELETE FROM user")
    with app.app_context():
        db.session.add(User(username="later", email="later"))
        db.session.commit()
    assert len(read_table(app, "user")) == 4


@pytest.mark.parametrize("statement, parameters, reason", [
    ("SELECT nope FROM user", None, "no such column: nope"), ("SELECT :a", None, "'a'"), ("SELECT 1", {"a": 1}, "a"),
])
def test_a_query_in_error_is_told_with_its_reason(app, statement, parameters, reason):
    with pytest.raises(AppkitError, match=reason):
        read_query(app, statement, parameters)


def test_reading_leaves_the_driver_as_it_was():
    engine = sa.create_engine("sqlite://", poolclass=StaticPool)
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
    driver.text_factory, driver.row_factory = bytes, sqlite3.Row
    assert read_query(engine, "SELECT 'é' AS a")["a"].tolist() == ["é"]
    assert (driver.text_factory, driver.row_factory) == (bytes, sqlite3.Row)
    assert driver.execute("PRAGMA query_only").fetchone()[0] == 0
    engine.dispose()


@pytest.mark.parametrize("read", [appkit.list_tables, appkit.read_schema, appkit.draw_schema])
def test_no_reader_makes_a_database_that_is_missing(read, tmp_path):
    with pytest.raises(AppkitError, match="There is no database at"):
        read(f"sqlite:///{tmp_path / 'missing.db'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source, told", [("nonsense", "no database URL"), ("/tmp/x.db", "no database URL"),
                                          ("sqlite:////", "Cannot read the database")])
def test_a_source_that_is_none_says_what_one_is(source, told):
    with pytest.raises(AppkitError, match=told):
        appkit.list_tables(source)


@pytest.mark.parametrize("asked", [{"where": 5}, {"where": {"id": 1}}, {"columns": 5}, {"limit": "3"}])
def test_an_argument_of_the_wrong_kind_says_what_is_wanted(asked):
    with pytest.raises(AppkitError, match="is wanted"):
        read_table(appkit.demo(3), "user", **asked)


def test_a_limit_beyond_all_rows_gives_them_all():
    assert len(read_table(appkit.demo(3), "user", limit=2**70)) == 3
