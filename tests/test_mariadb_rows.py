"""Rows of MariaDB: every value as the server has it, by either reader, whatever the session is set to."""
from datetime import date, datetime, time, timezone
from decimal import Decimal
from time import monotonic

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import servers
from appkit.batches import join_batches
from appkit.databases.mariadb import rows
from appkit.databases.mariadb.catalogue import read_tables
from appkit.databases.mariadb.meanings import understand
from appkit.databases.mariadb.naming import quote
from appkit.databases.mariadb.reading import count_values, reading_only

NAME = "a %s b `\"' :x é 日"
# A type, values as SQL, and by kind what must arrive.
VALUES = [
    ("tinyint(1)", ["1", "-128"], {"i": [1, -128]}),
    ("tinyint unsigned", ["255"], {"i": [255]}),
    ("int(9) unsigned zerofill", ["42"], {"i": [42]}),
    ("bigint", ["-9223372036854775808"], {"i": [-2**63]}),
    ("bigint unsigned", ["1", "9223372036854775807", "18446744073709551615"],
     {"i": [1, 2**63 - 1, None], "n": [None, None, str(2**64 - 1)]}),
    ("bit(1)", ["1", "0"], {"i": [1, 0]}),
    ("bit(64)", ["~0", "5"], {"n": [str(2**64 - 1), None], "i": [None, 5]}),
    ("year", ["2020", "0"], {"i": [2020, 0]}),
    ("float", ["0.1", "16777217", "3.4028234e38"], {"r": [0.10000000149011612, 16777216.0, 3.4028234663852886e38]}),
    ("double", ["0.1", "5e-324", "1.7976931348623157e308"], {"r": [0.1, 5e-324, 1.7976931348623157e308]}),
    ("double(10,2)", ["1.239", "99999999.99"], {"r": [1.24, 99999999.99]}),
    ("decimal(65,30)", ["-12345678901234567890123456789012345.00000000000000000000000000001", "0", "-0.50"],
     {"n": ["-12345678901234567890123456789012345.00000000000000000000000000001", "0", "-0.5"]}),
    ("decimal(10,0)", ["1000", "-0.4"], {"n": ["1000", "0"]}),
    ("decimal(8,2) zerofill", ["1.50", "0", "0.07"], {"n": ["1.5", "0", "0.07"]}),
    ("date", ["'2020-02-29'", "'9999-12-31'", "'0000-00-00'", "'2020-02-31'", "'2020-00-00'"],
     {"d": [date(2020, 2, 29), date(9999, 12, 31), None, None, None],
      "t": [None, None, "0000-00-00", "2020-02-31", "2020-00-00"]}),
    ("datetime(6)", ["'0001-01-01'", "'9999-12-31 23:59:59.999999'", "'0000-00-00'"],
     {"m": [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999), None],
      "t": [None, None, "0000-00-00 00:00:00.000000"]}),
    ("timestamp(3) null", ["'2020-03-29 02:30:00.123'", "'0000-00-00'"],
     {"z": [datetime(2020, 3, 29, 2, 30, 0, 123000, timezone.utc), None], "t": [None, "0000-00-00 00:00:00.000"]}),
    ("time(6)", ["'-838:59:59'", "'23:59:59.999999'"], {"t": ["-838:59:59.000000", "23:59:59.999999"]}),
    ("json", ["'{\"a\":  1.0}'", "'null'"], {"t": ['{"a":  1.0}', "null"]}),
    ("enum('a','b, ''c')", ["'b, ''c'"], {"t": ["b, 'c"]}),
    ("set('a','b')", ["'a,b'", "''"], {"t": ["a,b", ""]}),
    ("binary(3)", ["'a'"], {"b": [b"a\0\0"]}),
    ("varbinary(9)", ["x'00ff00'", "''"], {"b": [b"\0\xff\0", b""]}),
    ("longblob", ["REPEAT(x'00ff', 7500000)"], {"b": [b"\0\xff" * 7500000]}),
    ("char(5)", ["'a'"], {"t": ["a"]}),
    ("varchar(20) character set latin1", ["'é€'"], {"t": ["é€"]}),
    ("varchar(20) character set utf16", ["'😀'"], {"t": ["😀"]}),
    ("text", ["'\\0😀\\\\'", "''", "'NULL'"], {"t": ["\0😀\\", "", "NULL"]}),
    ("uuid", ["'123e4567-e89b-12d3-a456-426655440000'"], {"t": ["123e4567-e89b-12d3-a456-426655440000"]}),
    ("inet6", ["'::1'"], {"t": ["::1"]}),
    ("point", ["POINT(1, 2)"], {"b": [bytes(4) + bytes.fromhex("0101000000000000000000f03f0000000000000040")]}),
    ("int", [], {}),
]


@pytest.fixture(scope="module")
def url():
    made = servers.new_database(servers.mariadb(), "rows %s `:x' é", "CHARACTER SET utf8mb4")
    yield made
    servers.drop_database(made)


@pytest.fixture(params=["connectorx", "PyMySQL", "mysqlclient"])
def reader(request, monkeypatch):
    monkeypatch.setattr(rows, "_FEW", 1)
    if request.param == "PyMySQL":
        monkeypatch.setattr(rows, "_address", lambda connection: None)
    elif request.param == "mysqlclient":
        pytest.importorskip("MySQLdb")
        engine_at = servers.engine_at
        monkeypatch.setattr(servers, "engine_at",
                            lambda url, **options: engine_at(url.set(drivername="mariadb+mysqldb"), **options))
    else:  # and by nothing else
        monkeypatch.setattr(rows, "_stream", None)
    return request.param


def make(url, type_, values, name=NAME):
    """Make a table with a column of a type, a row for each value, and one for NULL."""
    mode = "ALLOW_INVALID_DATES" if type_ == "date" else ""
    servers.execute(
        url, f"SET sql_mode = '{mode}', time_zone = '+00:00'", f"DROP TABLE IF EXISTS {quote(name)}",
        f"CREATE TABLE {quote(name)} (id int AUTO_INCREMENT PRIMARY KEY, {quote(name)} {type_})",
        *(f"INSERT INTO {quote(name)} ({quote(name)}) VALUES ({value})" for value in [*values, "NULL"]))
    return table_of(url, name)


def table_of(url, name=NAME):
    with servers.engine_at(url).connect() as connection:
        return next(table for table in read_tables(connection) if table.name == name)


def as_lists(batches, width):
    found = join_batches(list(batches), width)
    return [{kind: part.to_pylist() for kind, part in parts.items()} for parts in found.columns]


@pytest.mark.parametrize("type_, values, expected", VALUES, ids=[each[0] for each in VALUES])
def test_every_type_arrives_as_it_is_stored(url, reader, type_, values, expected):
    table = make(url, type_, values)
    expected = {kind: [*found, None] for kind, found in expected.items()}
    assert as_lists(rows.read_copy(servers.engine_at(url), table), 2) == [{"i": list(range(1, len(values) + 2))}, expected]


@pytest.mark.parametrize("type_, values, expected", VALUES, ids=[each[0] for each in VALUES])
def test_a_query_gives_what_a_copy_gives(url, type_, values, expected):
    make(url, type_, values)
    statement = sa.select(sa.column(NAME)).select_from(sa.table(NAME)).order_by(sa.column("id"))
    with servers.engine_at(url).connect() as connection, reading_only(connection):
        for size in (None, 2):
            names, batches = rows.read_rows(connection, statement, size)
            assert names == [NAME]
            assert as_lists(batches, 1) == [{kind: [*found, None] for kind, found in expected.items()}]


def test_a_reader_that_is_left_leaves_no_connection(url, reader, monkeypatch):
    monkeypatch.setattr(rows, "_ROWS", 64)
    servers.execute(url, "CREATE OR REPLACE TABLE left_one (id int PRIMARY KEY)",
                    "INSERT INTO left_one SELECT seq FROM seq_1_to_100000")
    batches = rows.read_copy(servers.engine_at(url), table_of(url, "left_one"))
    assert next(batches).rows
    batches.close()
    asked = "SELECT ID FROM information_schema.processlist WHERE DB = DATABASE() AND ID <> CONNECTION_ID()"
    deadline = monotonic() + 10  # the server takes a moment to notice
    while servers.execute(url, asked):
        assert monotonic() < deadline


def test_a_reader_whose_server_ends_the_connection_says_so(url, monkeypatch):
    servers.execute(url, "CREATE OR REPLACE TABLE ended (v text)",
                    "INSERT INTO ended SELECT REPEAT('x', 60000) FROM seq_1_to_2000")
    monkeypatch.setattr(rows, "_ROWS", 1)
    batches = rows.read_copy(servers.engine_at(url), table_of(url, "ended"))
    next(batches)
    asked = "SELECT ID FROM information_schema.processlist WHERE DB = DATABASE() AND ID <> CONNECTION_ID()"
    servers.execute(url, *(f"KILL {each}" for each, in servers.execute(url, asked)))
    with pytest.raises(sa.exc.DBAPIError, match="Lost connection"):
        list(batches)


def test_a_connection_that_is_lost_while_it_reads_is_not_lent_again(url):
    engine = sa.create_engine(url, pool_size=1)
    with pytest.raises(sa.exc.OperationalError), engine.connect() as connection, reading_only(connection):
        connection.exec_driver_sql(f"KILL {connection.connection.driver_connection.thread_id()}")
        connection.exec_driver_sql("SELECT 1")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    engine.dispose()


def test_both_readers_give_the_rows_in_the_order_of_the_key(url, reader, monkeypatch):
    monkeypatch.setattr(rows, "_ROWS", 64)
    servers.execute(url, "DROP TABLE IF EXISTS many",
                    "CREATE TABLE many (v varchar(9), id bigint unsigned PRIMARY KEY)",
                    "INSERT INTO many SELECT seq, seq * 9223372036854775 FROM seq_2000_to_1")
    batches = list(rows.read_copy(servers.engine_at(url), table_of(url, "many")))
    assert len(batches) > 3
    ids, large = (as_lists(batches, 2)[1][kind] for kind in "in")
    found = [int(text) if number is None else number for number, text in zip(ids, large)]
    assert found == [number * 9223372036854775 for number in range(1, 2001)]


def test_a_reader_that_fails_halfway_is_followed_by_the_other(url, monkeypatch):
    monkeypatch.setattr(rows, "_FEW", 1)
    monkeypatch.setattr(rows, "_ROWS", 16)
    fast, calls = rows._read_fast, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) > 2:
            raise rows.Unreadable
        return fast(*arguments)

    monkeypatch.setattr(rows, "_read_fast", failing)
    servers.execute(url, "DROP TABLE IF EXISTS half", "CREATE TABLE half (id int PRIMARY KEY)",
                    "INSERT INTO half SELECT CAST(seq AS SIGNED) - 50 FROM seq_1_to_100")
    assert as_lists(rows.read_copy(servers.engine_at(url), table_of(url, "half")), 1) == [{"i": list(range(-49, 51))}]


def test_tables_without_a_key_and_with_one_of_texts_arrive(url, reader):
    for key in ("", ", PRIMARY KEY (a, b)"):
        servers.execute(url, "DROP TABLE IF EXISTS odd", f"CREATE TABLE odd (b int, a varchar(5){key})",
                        "INSERT INTO odd VALUES (2, 'x'), (1, 'x'), (3, 'a')")
        found = as_lists(rows.read_copy(servers.engine_at(url), table_of(url, "odd")), 2)
        assert found == [{"i": [3, 1, 2] if key else [2, 1, 3]}, {"t": list("axx") if key else list("xxa")}]


def test_rows_in_use_are_read_in_order_and_their_session_left_as_it_was(url, reader):
    table = make(url, "timestamp null", ["'2020-01-01 12:00:00'", "'2021-01-01'"])
    engine = sa.create_engine(url, connect_args={"charset": "latin1"})
    asked = sa.text("SELECT @@time_zone, @@sql_mode, @@character_set_results, @@tx_read_only, @@in_transaction")
    with engine.connect() as connection:
        connection.exec_driver_sql("SET time_zone = '+05:00', sql_mode = 'PAD_CHAR_TO_FULL_LENGTH,ANSI_QUOTES'")
        before = connection.execute(asked).all()
        connection.rollback()
        with reading_only(connection):
            batches = rows.read_ordered(connection, table, table.columns[1:])
            assert count_values(connection, table) == (3, [3, 2])
            with pytest.raises(sa.exc.DBAPIError, match="READ ONLY"):
                connection.exec_driver_sql("DELETE FROM " + quote(NAME).replace("%", "%%"))
            statement = sa.select(sa.column(NAME)).select_from(sa.table(NAME)).order_by(sa.column("id"))
            chunks = iter(rows.read_rows(connection, statement, 1)[1])  # not taken to its end
            assert as_lists([next(chunks)], 1) == [{"z": [datetime(2020, 1, 1, 12, tzinfo=timezone.utc)]}]
        assert connection.execute(asked).all() == before
    engine.dispose()
    if reader == "connectorx":
        assert as_lists(batches, 1)[0]["z"][:2] == [datetime(2020, 1, 1, 12, tzinfo=timezone.utc),
                                                    datetime(2021, 1, 1, tzinfo=timezone.utc)]


def test_meanings_are_those_that_the_types_declare(url):
    table = make(url, "decimal(9,3)", ["1.5"])
    meant = {type_: understand(type_, {kind: rows.from_texts(kind, texts)}, 1)[1] for type_, kind, texts in (
        ("time(6)", "t", ["10:00:00.5"]), ("time", "t", ["-838:59:59"]))}
    assert meant == {"time(6)": [time(10, 0, 0, 500000)], "time": ["-838:59:59"]}
    parts = join_batches(list(rows.read_copy(servers.engine_at(url), table)), 2).columns
    assert understand("decimal(9,3)", parts[1], 2) == ("object", [Decimal("1.500"), None])
    assert understand("tinyint(1)", parts[0], 2)[0] == "integer"
    assert understand("tinyint(1)", {"i": parts[0]["i"][:1]}, 1)[0] == "boolean"
    empty = ("int(11)", "text", "datetime", "timestamp", "double", "date", "BOOL")
    assert [understand(type_, {}, 1)[0] for type_ in empty] == [
        "integer", "text", "datetime", "instant", "real", "object", "boolean"]


ROW = st.tuples(
    st.none() | st.integers(-2**63, 2**63 - 1), st.none() | st.integers(0, 2**64 - 1),
    st.none() | st.floats(allow_nan=False, allow_infinity=False), st.none() | st.floats(allow_nan=False, width=32,
                                                                                        allow_infinity=False),
    st.none() | st.text(st.characters(codec="utf-8"), max_size=50), st.none() | st.binary(max_size=50),
    st.none() | st.decimals(-10**20, 10**20, places=10), st.none() | st.datetimes(datetime(1000, 1, 1)))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, min_size=1, max_size=20))
def test_mixed_rows_are_those_that_the_server_writes(url, reader, values):
    servers.execute(url, "CREATE OR REPLACE TABLE mixed (id int AUTO_INCREMENT PRIMARY KEY, i bigint, "
                         "u bigint unsigned, "
                         "d double, f float, t text, b blob, n decimal(31,10), m datetime(6))")
    columns = ("i", "u", "d", "f", "t", "b", "n", "m")
    engine = servers.engine_at(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO mixed ({', '.join(columns)}) VALUES "
                                   f"({', '.join(['%s'] * len(columns))})", values)
        truth = connection.exec_driver_sql("SELECT CAST(i AS CHAR), CAST(u AS CHAR), CAST(d AS CHAR), CAST(f * 1e0 AS "
                                           "CHAR), HEX(t), HEX(b), CAST(n AS CHAR), CAST(m AS CHAR) FROM mixed").all()
    found = join_batches(list(rows.read_copy(servers.engine_at(url), table_of(url, "mixed"))), 9)
    read = list(zip(*(found.values(place) for place in range(1, 9))))
    assert [tuple(each) for each in truth] == [
        written(row, before) for row, before in zip(read, truth)]


def written(row, truth):
    """Write values as the server writes them; a float is one that the server's text stands for."""
    i, u, d, f, t, b, n, m = row
    return (None if i is None else str(i), None if u is None else str(int(u)),
            *(text if number is not None and text is not None and float(text) == number else number
              for number, text in ((d, truth[2]), (f, truth[3]))),
            None if t is None else t.encode().hex().upper(), None if b is None else b.hex().upper(),
            None if n is None else f"{n:.10f}", None if m is None else m.isoformat(" ", "microseconds"))
