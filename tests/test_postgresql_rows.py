"""PostgreSQL's rows, by ADBC and by the driver: the same values of the same kinds as the server says they are."""
import struct
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pandas as pd
import psycopg
import pytest
import servers
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from appkit.batches import Batch, join_batches
from appkit.databases import Column, Table
from appkit.databases.postgresql import rows
from appkit.databases.postgresql.meanings import understand
from appkit.databases.postgresql.naming import quote
from appkit.tables import read_table, typed_frame

MAJORS = pytest.mark.parametrize("major", ["15", "18"])
HOSTILE = ("DateStyle = 'German'", "extra_float_digits = 0", "bytea_output = 'escape'", "TimeZone = 'Asia/Kolkata'",
           "IntervalStyle = 'sql_standard'")

INTEGERS = st.sampled_from([0, 1, -1, 2**53 + 1, 2**63 - 1, -2**63]).map(str)
DECIMALS = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-10**9, max_value=10**9).map(str),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "0", "-0.00", "1.50", "100", "1e100", "-1e-100", "10000.0001",
                     "123456789012345678901234567890.12345678901234567890", "9" * 100, "0.00001234", "1e4", "1e8"]))
FLOATS = st.one_of(st.floats().map(repr), st.sampled_from(["NaN", "Infinity", "-Infinity", "-0", "0.1", "5e-324"]))
TEXTS = st.one_of(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
                  st.sampled_from(["", "it's \"so\"", "\\N", "NULL", "é✓😀", "2026-01-01", "a\nb\tc", "%s :x"]))
DAYS = st.one_of(st.dates().map(str), st.sampled_from(
    ["infinity", "-infinity", "0044-03-15 BC", "5874897-12-31", "4714-11-24 BC", "0001-01-01", "9999-12-31",
     "10000-01-01", "0001-12-31 BC", "0401-02-29 BC", "0400-02-28 BC", "1969-12-31"]))
MOMENTS = st.one_of(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)).map(str), st.sampled_from(
    ["infinity", "-infinity", "0044-03-15 01:02:03.4 BC", "290000-01-01 00:00:00.000001",
     "294276-12-31 23:59:59.999999",
     "4713-01-01 00:00:00 BC", "0001-01-01", "9999-12-31 23:59:59.999999", "10000-01-01", "1850-06-01 12:00",
     "0001-12-31 23:59:59.999999 BC", "1969-12-31 23:59:59.999999", "294247-01-10 04:00:54.775808"]))
SOME = st.sampled_from
VALUES = {
    "integer": st.integers(-2**31, 2**31 - 1).map(str), "smallint": st.integers(-2**15, 2**15 - 1).map(str),
    "bigint": INTEGERS, "oid": SOME(["0", "4294967295"]), "boolean": SOME(["true", "false"]),
    "real": st.one_of(st.floats(width=32).map(repr), SOME(["0.1", "1e-45", "-0"])), "double precision": FLOATS,
    "numeric": DECIMALS, "numeric(10,2)": SOME(["1.5", "NaN", "0", "-99999999.99"]), "numeric(5,0)": SOME(["7", "-0"]),
    "varchar": TEXTS, "text": TEXTS, "character(4)": SOME(["", "ab", "é"]), "name": SOME(["", "n"]),
    '"char"': SOME(["x", ""]), "bytea": st.binary(max_size=5).map(lambda value: "\\x" + value.hex()),
    "date": DAYS, "timestamp": MOMENTS, "timestamp(3)": MOMENTS, "timestamptz": MOMENTS,
    "time": SOME(["24:00:00", "01:02:03.000004", "00:00"]), "timetz": SOME(["01:02:03.4+05:30", "24:00:00-12"]),
    "interval": SOME(["1 year -2 days 03:04:05.000006", "-1 mon", "0"]), "json": SOME(['{"a":  1e2}', "null"]),
    "jsonb": SOME(['{"a":  1e2, "é": null}', "null"]), "uuid": st.uuids().map(str),
    "integer[]": SOME(["{}", "{1,NULL}", "{{1,2},{3,4}}"]), "text[]": SOME(["{}", '{"a,b",NULL,""}']),
    "timestamp[]": SOME(["{infinity}"]), "float8[]": SOME(["{0.1,NaN}"]), "money": SOME(["-1.5"]),
    "bit(3)": SOME(["101"]),
    "varbit": SOME(["", "1"]), "inet": SOME(["1.2.3.4", "::1/64"]), "cidr": SOME(["1.2.3.0/24"]), "xid": SOME(["5"]),
    "macaddr": SOME(["08:00:2b:01:02:03"]), "int4range": SOME(["empty", "[1,5)"]), "point": SOME(["(0.1,2)"]),
    "tsvector": SOME(["'a' 'b':2"]), "pg_lsn": SOME(["0/16B3748"]), "regclass": SOME(["pg_class"]),
    "mood": SOME(["a b", "it's"]), "price": SOME(["1.5", "0"]), "day": DAYS, "pair": SOME(["(,)", '(1,"a ""b""")']),
    "pairs": SOME(['{"(1,x)"}']),
}
NUMERIC = ("numeric", "numeric(10,2)", "numeric(5,0)", "price")
FLOAT = {"real": (">f", "float4send"), "double precision": (">d", "float8send")}


@pytest.fixture(autouse=True)
def every_table_is_large(monkeypatch) -> None:
    monkeypatch.setattr(rows, "_FEW", 0)


def make(major: str) -> sa.URL:
    """Make a database whose sessions write everything in their own way."""
    url = servers.new_database(servers.postgresql(major))
    servers.execute(url, *(f'ALTER DATABASE "{url.database}" SET {setting}' for setting in HOSTILE),
                    "CREATE TYPE mood AS ENUM ('a b', 'it''s')", "CREATE DOMAIN price AS numeric(10,2)",
                    "CREATE DOMAIN day0 AS date", "CREATE DOMAIN day AS day0",
                    "CREATE TYPE pair AS (a integer, b text)", "CREATE DOMAIN pairs AS pair[]")
    return url


@pytest.fixture(scope="module", params=["15", "18"])
def url(request) -> Iterator[sa.URL]:
    made = make(request.param)
    yield made
    servers.drop_database(made)


def raw(url: sa.URL) -> psycopg.Connection:
    return psycopg.connect(host=url.host, port=url.port, user=url.username, password=url.password,
                           dbname=url.database, autocommit=True)


def fill(url: sa.URL, name: str, types: list[str], values: list[tuple]) -> Table:
    columns = {f"c{place} %s:x": type_ for place, type_ in enumerate(types)}
    with raw(url) as connection:
        declared = "".join(f", {quote(column)} {type_}" for column, type_ in columns.items())
        connection.execute(f"DROP TABLE IF EXISTS {quote(name)}")
        connection.execute(f"CREATE TABLE {quote(name)} (id int PRIMARY KEY{declared})")
        marks = "".join(f", %s::text::{type_}" for type_ in types)
        for number, row in enumerate(values):  # the last row first, so that the order is the key's
            connection.execute("SET DateStyle = 'ISO'")
            connection.execute(f"INSERT INTO {quote(name).replace('%', '%%')} VALUES (%s{marks})", (-number, *row))
    found = (Column("id", "integer", False), *(Column(column, type_, True) for column, type_ in columns.items()))
    return Table(name, found, ("id",), (), ())


def truth(url: sa.URL, table: Table) -> list[tuple]:
    """Every value as (kind, value), as the server says it is."""
    with raw(url) as connection:
        connection.execute("SET DateStyle = ISO; SET TimeZone = UTC; SET IntervalStyle = postgres; "
                           "SET bytea_output = hex; SET extra_float_digits = 3; SET lc_monetary = 'C'")
        columns = [[("i", number) for number, in connection.execute(f"SELECT id FROM {quote(table.name)} ORDER BY id")]]
        for column in table.columns[1:]:
            given = quote(column.name)
            kind = f"trim_scale({given})::text" if column.type in NUMERIC else f"concat({given})"
            if column.type in FLOAT:
                kind = f"encode({FLOAT[column.type][1]}({given}), 'hex')"
            found = connection.execute(f"SELECT CASE WHEN num_nulls({given}) = 0 THEN {kind} END "
                                       f"FROM {quote(table.name)} ORDER BY id").fetchall()
            columns.append([("", None) if value is None else told(column.type, value) for value, in found])
    return list(zip(*columns))


def told(declared: str, text: str) -> tuple[str, Any]:
    """Say what a value of a type is, by the server's text of it."""
    if declared in FLOAT:
        return "r", struct.unpack(FLOAT[declared][0], bytes.fromhex(text))[0]
    if declared in ("integer", "smallint", "bigint", "oid"):
        return "i", int(text)
    if declared == "boolean":
        return "f", text == "t"
    if declared == "bytea":
        return "b", bytes.fromhex(text[2:])
    if declared in NUMERIC:
        return "n", text
    kind = {"date": ("d", date), "day": ("d", date), "timestamp": ("m", datetime), "timestamp(3)": ("m", datetime),
            "timestamptz": ("z", datetime)}.get(declared)
    try:
        return (kind[0], kind[1].fromisoformat(text)) if kind else ("t", text)
    except ValueError:
        return "t", text


def as_found(batches: list[Batch]) -> list[tuple]:
    found = []
    for batch in batches:
        columns = [[next((plain(kind, value) for kind, value in zip(parts, each) if value is not None), ("", None))
                    for each in zip(*(part if kind == "o" else part.to_pylist() for kind, part in parts.items()))]
                   or [("", None)] * batch.rows for parts in batch.columns]
        found += zip(*columns)
    return found


def plain(kind: str, value: Any) -> tuple[str, Any]:
    if kind != "o":
        return kind, value
    if isinstance(value, date):
        return "d", value
    text = f"{value:f}"
    return "n", text.rstrip("0").rstrip(".") if "." in text else text


def by_copy(url: sa.URL, table: Table) -> list[Batch]:
    return list(rows.read_copy(servers.engine_at(url), table))


def on_connection(read: Callable, url: sa.URL, table: Table) -> list[Batch]:
    engine = servers.engine_at(url)
    with engine.connect() as connection:
        return list(read(connection, table))


def ordered(url: sa.URL, table: Table) -> list[Batch] | None:
    with servers.engine_at(url).connect() as connection:
        return rows.read_ordered(connection, table, table.columns)


def by_adbc(connection: sa.Connection, table: Table) -> list[Batch]:
    found = rows.read_ordered(connection, table, table.columns)
    assert found is not None
    return found


def by_driver(connection: sa.Connection, table: Table, size: int | None = None) -> list[Batch]:
    origin = sa.table(table.name)
    statement = sa.select(*(sa.column(column.name) for column in table.columns)).select_from(origin)
    names, batches = rows.read_rows(connection, statement.order_by(sa.column("id")), size)
    assert names == [column.name for column in table.columns]
    return list(batches)


def in_chunks(connection: sa.Connection, table: Table) -> list[Batch]:
    return by_driver(connection, table, 2)


def check(url: sa.URL, table: Table) -> None:
    expected = repr(truth(url, table)).replace("zoneinfo.ZoneInfo(key='UTC')", "datetime.timezone.utc")
    for found in (by_copy(url, table), *(on_connection(read, url, table) for read in (by_adbc, by_driver, in_chunks))):
        assert repr(as_found(found)).replace("zoneinfo.ZoneInfo(key='UTC')", "datetime.timezone.utc") == expected


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_value_is_what_the_server_says_it_is(url, data):
    types = data.draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6))
    row = st.tuples(*(st.one_of(st.none(), VALUES[type_]) for type_ in types))
    check(url, fill(url, 'od"d %s', types, data.draw(st.lists(row, max_size=7))))


def test_a_frame_has_the_dtypes_of_what_is_declared(url):
    types = ["bigint", "double precision", "real", "boolean", "text", "timestamp", "timestamptz", "numeric(10,2)",
             "numeric", "date", "time", "bytea", "interval", "jsonb", "uuid", "integer[]", "mood"]
    row = ("9007199254740993", "-0", "0.1", "true", "é", "2026-01-02 03:04:05.000006", "2026-01-02 03:04:05+05:30",
           "1.5", "NaN", "2026-01-02", "03:04:05.6", r"\x00ff", "1 day", '{"a": 1}',
           "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{1}", "a b")
    table = fill(url, "typed", types, [row, (None,) * len(types)])
    frame = frame_of(table, by_copy(url, table)).drop(columns="id")
    dtypes = ["Int64", "Float64", "Float64", "boolean", "string", "datetime64[us]", "datetime64[us, UTC]",
              *["object"] * 5, *["string"] * 5]
    assert frame.dtypes.astype(str).tolist() == dtypes
    assert repr([getattr(value, "item", lambda: value)() for value in frame.iloc[1, :12]]) == repr([
        2**53 + 1, -0.0, struct.unpack("f", struct.pack("f", 0.1))[0], True, "é",
        pd.Timestamp("2026-01-02 03:04:05.000006"), pd.Timestamp("2026-01-01 21:34:05", tz="UTC"), Decimal("1.50"),
        Decimal("NaN"), date(2026, 1, 2), time(3, 4, 5, 600_000), b"\0\xff"])
    assert frame.iloc[0].isna().all()
    pd.testing.assert_frame_equal(frame, frame_of(table, on_connection(by_driver, url, table)).drop(columns="id"))
    empty = frame_of(table, []).drop(columns="id")
    assert empty.dtypes.astype(str).tolist() == dtypes


def frame_of(table: Table, batches: list[Batch]) -> pd.DataFrame:
    joined = join_batches(batches, len(table.columns)) if batches else Batch(0, [{} for _ in table.columns])
    return typed_frame([column.name for column in table.columns], [column.type for column in table.columns], joined,
                       SimpleNamespace(understand=understand))


def test_what_python_has_no_room_for_makes_a_column_of_objects(url):
    table = fill(url, "odd", ["timestamp", "date", "timestamptz", "time"],
                 [("infinity", "0044-03-15 BC", "290000-01-01 00:00+05:30", "24:00:00"),
                  ("2026-01-02", "2026-01-02", "2026-01-02 00:00+00", "01:02")])
    frame = frame_of(table, by_copy(url, table))
    assert frame.iloc[:, 1:].to_numpy().tolist() == [
        [datetime(2026, 1, 2), date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=timezone.utc), time(1, 2)],
        ["infinity", "0044-03-15 BC", "289999-12-31 18:30:00+00", "24:00:00"]]


def test_large_values_come_in_small_batches(url, monkeypatch):
    monkeypatch.setattr(rows, "_BYTES", 2**20)
    table = fill(url, "large", ["text", "bytea"], [("é", None)] * 3)
    long = 16 * 2**20
    with raw(url) as connection:
        connection.execute(f"UPDATE large SET {quote(table.columns[1].name)} = repeat('é', {long // 2}), "
                           f"{quote(table.columns[2].name)} = decode(repeat('ff', {long}), 'hex')")
    for found in (by_copy(url, table), on_connection(by_driver, url, table)):
        assert [batch.rows for batch in found] == [1, 1, 1]
        assert set(as_found(found)) == {(("i", number), ("t", "é" * (long // 2)), ("b", b"\xff" * long))
                                        for number in (0, -1, -2)}


@pytest.mark.parametrize("count", [0, 3])
def test_a_table_may_have_no_columns_no_key_and_no_rows(url, count):
    servers.execute(url, "DROP TABLE IF EXISTS bare, keyless", "CREATE TABLE bare ()", "CREATE TABLE keyless (v text)",
                    *["INSERT INTO bare DEFAULT VALUES"] * count, *["INSERT INTO keyless VALUES ('a')"] * count)
    assert sum(batch.rows for batch in by_copy(url, Table("bare", (), (), (), ()))) == count
    keyless = Table("keyless", (Column("v", "text", True),), (), (), ())
    assert as_found(by_copy(url, keyless)) == [(("t", "a"),)] * count
    assert ordered(url, keyless) is None


def test_what_only_this_session_sees_is_read_by_this_session(url):
    table = fill(url, "plain", [], [()])
    with servers.engine_at(url).connect() as connection:
        assert rows.read_ordered(connection, table, table.columns) is not None
        with connection.begin_nested():  # of a savepoint no snapshot can be given away
            assert rows.read_ordered(connection, table, table.columns) is None
        connection.exec_driver_sql("INSERT INTO plain VALUES (1)")
        assert rows.read_ordered(connection, table, table.columns) is None


def test_rows_that_a_policy_hides_stay_hidden(url):
    table = fill(url, "secret", [], [(), ()])
    servers.execute(url, "ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
    assert ordered(url, table) is None


def test_all_is_of_the_moment_that_the_connection_sees(url):
    table = fill(url, "moment", [], [(), ()])
    engine = servers.engine_at(url)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.exec_driver_sql("SELECT 1 FROM moment").all()
        servers.execute(url, "DELETE FROM moment")
        assert as_found(by_adbc(connection, table)) == [(("i", -1),), (("i", 0),)]


def test_a_schema_and_the_app_s_own_search_path_are_kept(url):
    servers.execute(url, 'DROP SCHEMA IF EXISTS "o.d%d" CASCADE', 'CREATE SCHEMA "o.d%d"',
                    'CREATE TABLE "o.d%d".plain (id int PRIMARY KEY)', 'INSERT INTO "o.d%d".plain VALUES (7)')
    fill(url, "plain", [], [()])
    column = (Column("id", "integer", False),)
    there = Table("o.d%d.plain", column, ("id",), (), (), "o.d%d")
    assert as_found(by_copy(url, there)) == as_found(on_connection(by_adbc, url, there)) == [(("i", 7),)]
    engine = servers.engine_at(url)
    with engine.connect() as connection:
        connection.exec_driver_sql('SET search_path = "o.d%%d"')
        assert as_found(by_adbc(connection, Table("plain", column, ("id",), (), ()))) == [(("i", 7),)]


@MAJORS
@pytest.mark.parametrize("encoding, client", [("LATIN1", "utf8"), ("LATIN1", "latin1"), ("SQL_ASCII", "utf8")])
def test_texts_are_what_they_are_in_any_encoding(major, encoding, client):
    url = servers.new_database(servers.postgresql(major), options=f"ENCODING {encoding} TEMPLATE template0 LOCALE 'C'")
    url = url.update_query_dict({"client_encoding": client})
    servers.execute(url, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'é')")
    table = Table("t", (Column("id", "integer", False), Column("v", "text", True)), ("id",), (), ())
    for found in (by_copy(url, table), *(on_connection(read, url, table) for read in (by_driver, in_chunks))):
        assert as_found(found) == [(("i", 1), ("t", "é"))]
    servers.drop_database(url)


def test_what_adbc_cannot_read_the_driver_reads(url):
    table = fill(url, "plain", ["text"], [("a",)])
    # ADBC asks for the names of functions, which are quoted then, and knows no type any more.
    servers.execute(url, f'ALTER DATABASE "{url.database}" SET quote_all_identifiers = on')
    try:
        assert as_found(by_copy(url, table)) == [(("i", 0), ("t", "a"))]
        assert ordered(url, table) is None
    finally:
        servers.execute(url, f'ALTER DATABASE "{url.database}" RESET quote_all_identifiers')


def test_a_query_keeps_its_parameters_its_names_and_its_way_of_reading_moments(url):
    statement = sa.text("SELECT 1 AS a, :text AS a, date '03.02.2026' AS d, timestamptz '03.02.2026 00:00' AS z, "
                        "interval '1-2' AS i WHERE 5 % 3 = 2").bindparams(text="a%b'c")
    engine = servers.engine_at(url)
    for size in (None, 1):
        with engine.connect() as connection:
            names, batches = rows.read_rows(connection, statement, size)
            assert names == ["a", "a", "d", "z", "i"]
            assert as_found(batches) == [(("i", 1), ("t", "a%b'c"), ("d", date(2026, 2, 3)), (
                "z", pd.Timestamp("2026-02-02 18:30", tz="UTC").to_pydatetime()), ("t", "1 year 2 mons"))]
            connection.rollback()
            assert connection.exec_driver_sql("SHOW DateStyle").scalar_one() == "German, DMY"
    with engine.connect() as connection:
        assert rows.read_rows(connection, sa.text("SET a.b = '1'")) is None
        assert rows.read_rows(connection, sa.text("EXPLAIN SELECT 1"))[0] == ["QUERY PLAN"]


def test_heirs_belong_to_their_own_table_in_a_copy_and_to_their_parent_in_a_frame(url):
    table = fill(url, "parent", [], [()])
    servers.execute(url, "DROP TABLE IF EXISTS heir", "CREATE TABLE heir () INHERITS (parent)",
                    "INSERT INTO heir VALUES (9)")
    assert as_found(by_copy(url, table)) == [(("i", 0),)]
    assert as_found(on_connection(by_adbc, url, table)) == [(("i", 0),), (("i", 9),)]
    servers.execute(url, "DROP TABLE heir")


def test_read_table_gives_the_same_by_adbc_and_by_the_driver(url, monkeypatch):
    servers.execute(url, "DROP TABLE IF EXISTS whole", "CREATE TABLE whole (id int PRIMARY KEY, n numeric(10,2), "
                    "d date, t timestamp)", "INSERT INTO whole SELECT i, i * 0.5, date '2026-01-01' + i, 'infinity' "
                    "FROM generate_series(1, 3000) i", "UPDATE whole SET d = NULL, t = now() WHERE id % 2 = 0")
    quick = read_table(url, "whole")
    monkeypatch.setattr(rows, "_FEW", 5_000)
    pd.testing.assert_frame_equal(quick, read_table(url, "whole"))
    pieces = list(read_table(url, "whole", chunks=999))
    assert [len(piece) for piece in pieces] == [999, 999, 999, 3]
    pd.testing.assert_frame_equal(quick, pd.concat(pieces))


def test_a_large_table_is_read_by_two_connections_as_one(tmp_path):
    url = servers.new_database(servers.postgresql("18"))
    servers.execute(url, "CREATE TABLE t (k bigint PRIMARY KEY, n int)",
                    "INSERT INTO t SELECT g * 1000 - 9223372036854775800, g FROM generate_series(1, 3000) g",
                    "INSERT INTO t VALUES (9223372036854775807, -1), (0, NULL)")
    frame = read_table(url, "t")
    expected = servers.execute(url, "SELECT k, n FROM t ORDER BY k")
    assert [(k, None if n is pd.NA else n) for k, n in frame.itertuples(index=False)] == expected
    servers.drop_database(url)
