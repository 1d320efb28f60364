"""Private copies on PostgreSQL: exact, theirs alone, and made without a trace on the source."""
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import sqlalchemy as sa

from appkit.databases import keepers
from appkit.databases.postgresql import copies, dumps
from appkit.errors import RehearsalError
from tests import servers

MAJORS = ("15", "18")
NAMES = ("plain", "My \"Db\" 'x' %s é", "UPPER", "sp ace\\back", "select")
ROLE = 'Anna "O\'Neil" %'

FILL = (
    "CREATE EXTENSION IF NOT EXISTS plpgsql",
    "CREATE SCHEMA \"Other %\"",
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE TABLE t (id bigserial PRIMARY KEY, name text, mood mood, at timestamptz DEFAULT now(), x float4, "
    "n numeric)",
    "INSERT INTO t (name, mood, x, n) SELECT 'n' || g, 'ok', g / 3.0, g / 7.0 FROM generate_series(1, 500) AS g",
    "CREATE TABLE \"Other %\".\"a b\" (id int REFERENCES public.t)",
    "INSERT INTO \"Other %\".\"a b\" VALUES (7)",
    "CREATE UNLOGGED TABLE quick AS SELECT 1 AS one",
    "COMMENT ON TABLE t IS 'it''s 100 %'",
    "CREATE VIEW v AS SELECT count(*) FROM t",
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    "SELECT lo_from_bytea(4711, 'large')",
    "SELECT setval('t_id_seq', 900)",
    f"ALTER TABLE t OWNER TO \"{ROLE.replace(chr(34), chr(34) * 2)}\"",
    f"GRANT SELECT ON quick TO \"{ROLE.replace(chr(34), chr(34) * 2)}\"",
)
# What tells whether a database holds the same: rows, and what hangs on them.
CONTENT = ("SELECT id, name, mood, at, x, n FROM t ORDER BY id", "SELECT * FROM \"Other %\".\"a b\"",
           "SELECT * FROM quick", "SELECT * FROM v", "SELECT last_value, is_called FROM t_id_seq",
           "SELECT lo_get(4711)", "SELECT obj_description('t'::regclass)",
           "SELECT relname, relacl::text, pg_get_userbyid(relowner), relpersistence FROM pg_class WHERE relnamespace "
           "IN ('public'::regnamespace, '\"Other %\"'::regnamespace) ORDER BY 1",
           "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
           "SHOW TimeZone", "SHOW search_path", "SHOW work_mem")
# What tells whether anything was done to a database, to the last row and file.
TRACES = ("SELECT xmin, xmax, ctid, t.* FROM t ORDER BY id",
          "SELECT oid, relfilenode, relname FROM pg_class ORDER BY 1",
          "SELECT datname, datacl::text, datdba FROM pg_database WHERE datname NOT LIKE 'appkit%%' ORDER BY 1",
          "SELECT setdatabase, setrole, setconfig FROM pg_db_role_setting AS s WHERE EXISTS (SELECT 1 FROM pg_database "
          "WHERE oid = setdatabase AND datname NOT LIKE 'appkit%%') ORDER BY 1, 2",
          "SELECT rolname FROM pg_roles ORDER BY 1", "SELECT count(*) FROM pg_prepared_xacts")


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def content(url: sa.URL) -> list[list[tuple]]:
    return [servers.execute(url, each.replace("%%", "%")) for each in CONTENT]


def traces(url: sa.URL) -> list[list[tuple]]:
    return [servers.execute(url, each.replace("%%", "%")) for each in TRACES]


def left(server: sa.URL) -> set[str]:
    return {name for name in servers.databases(server) if name.startswith("appkit_")}


@pytest.fixture(params=MAJORS)
def server(request):
    url = servers.postgresql(request.param)
    if not servers.execute(url, f"SELECT 1 FROM pg_roles WHERE rolname = '{ROLE.replace(chr(39), chr(39) * 2)}'"):
        secret = servers.PASSWORD.replace("'", "''")
        servers.execute(url, f"CREATE ROLE {quote(ROLE)} LOGIN CREATEDB PASSWORD '{secret}'")
    yield url
    behind = left(url)
    for name in behind:
        servers.drop_database(url.set(database=name))
    assert behind == set()


def filled(server: sa.URL, name: str) -> sa.URL:
    url = servers.new_database(server, name)
    servers.execute(url, *FILL, f"ALTER DATABASE {quote(name)} SET timezone = 'Asia/Kolkata'",
                    f"ALTER DATABASE {quote(name)} SET search_path = public, \"Other %\", 'wei\"rd'",
                    f"ALTER ROLE {quote(ROLE)} IN DATABASE {quote(name)} SET work_mem = '5MB'",
                    f"REVOKE ALL ON DATABASE {quote(name)} FROM PUBLIC",
                    f"GRANT CONNECT ON DATABASE {quote(name)} TO {quote(ROLE)}")
    return url


@pytest.fixture(params=["plain"])
def source(server, request):
    url = filled(server, request.param)
    yield url
    servers.drop_database(url)


@pytest.fixture
def engine(source):
    made = servers.engine_at(source)
    yield made
    made.dispose()


def facts(url: sa.URL) -> list[tuple]:
    """What a database is beside its contents."""
    name = url.database.replace("'", "''")
    return servers.execute(
        url, "SELECT encoding, datcollate, datctype, datlocprovider, pg_get_userbyid(datdba), "
        "(SELECT array_agg(x::text ORDER BY x::text) FROM unnest(coalesce(datacl, acldefault('d', datdba))) AS x), "
        "(SELECT array_agg(setrole || setconfig::text ORDER BY setrole) FROM pg_db_role_setting "
        "WHERE setdatabase = d.oid) "
        f"FROM pg_database d WHERE datname = '{name}'")


@pytest.mark.parametrize("source", NAMES, indirect=True)
@pytest.mark.parametrize("way", ["by the server", "by programs"])
def test_a_copy_holds_everything_and_the_source_is_as_it_was(source, engine, way, tmp_path):
    before, wanted = traces(source), content(source)
    with engine.connect() if way == "by programs" else nullcontext():
        url = copies.copy_database(engine, tmp_path)
    assert content(url) == wanted
    assert facts(url) == facts(source)
    assert copies.notes_of(url) == []
    copies.drop_copies(url)
    assert traces(source) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", NAMES[:2], indirect=True)
def test_a_state_is_kept_and_put_back(source, engine, tmp_path):
    url = copies.copy_database(engine, tmp_path)
    wanted, was = content(url), facts(url)
    start = copies.save_copy(url, tmp_path, "start")
    servers.execute(url, "DROP TABLE t CASCADE", f"ALTER DATABASE {quote(url.database)} RESET ALL")
    copies.restore_copy(url, copies.save_copy(start, tmp_path, "saved"))
    assert content(url) == wanted and facts(url) == was
    assert content(start) == wanted
    copies.drop_copies(url)


def test_what_is_put_back_is_used_up(engine, server, tmp_path):
    url = copies.copy_database(engine, tmp_path)
    copies.restore_copy(url, copies.save_copy(url, tmp_path, "saved"))
    assert left(server) == {url.database}
    copies.drop_copy(url)
    assert left(server) == set()
    copies.drop_copies(url)


def test_an_empty_database_is_alike_and_empty(source, engine, tmp_path):
    url = copies.copy_database(engine, tmp_path)
    for _ in range(2):
        empty = copies.empty_database(tmp_path, url)
        assert servers.execute(empty, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []
        assert facts(empty) == facts(source)
        servers.execute(empty, "CREATE TABLE t (id int)")
    copies.drop_copies(url)


def test_the_letters_and_their_order_are_the_sources(server, tmp_path):
    has_icu = servers.execute(server, "SELECT 1 FROM pg_collation WHERE collname = 'de-x-icu'")
    locale = "icu ICU_LOCALE 'de-DE'" if has_icu else "builtin BUILTIN_LOCALE 'C.UTF-8'"
    url = servers.new_database(server, "ordered", "TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' "
                               f"LOCALE_PROVIDER {locale}")
    servers.execute(url, "CREATE TABLE t AS SELECT unnest(ARRAY['ä', 'z', 'a', 'B']) AS x")
    wanted = servers.execute(url, "SELECT x, upper(x) FROM t ORDER BY x")
    engine = sa.create_engine(url)
    with engine.connect():
        copy = copies.copy_database(engine, tmp_path)
    engine.dispose()
    assert servers.execute(copy, "SELECT x, upper(x) FROM t ORDER BY x") == wanted
    assert facts(copy) == facts(url)
    copies.drop_copies(copy)
    servers.drop_database(url)


def test_another_encoding_than_utf8_is_kept(server, tmp_path):
    url = servers.new_database(server, "latin", "TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    servers.execute(url, "CREATE TABLE t AS SELECT 'é' AS x")
    engine = sa.create_engine(url)
    with engine.connect():
        copy = copies.copy_database(engine, tmp_path)
    engine.dispose()
    assert servers.execute(copy, "SELECT x, octet_length(x) FROM t") == [("é", 1)]
    copies.drop_copies(copy)
    servers.drop_database(url)


def test_what_the_source_dropped_of_a_new_database_is_not_in_the_copy(source, tmp_path):
    servers.execute(source, "CREATE TABLE \"Other %\".kept AS SELECT 1 AS x", "DROP SCHEMA public CASCADE")
    engine = sa.create_engine(source)
    with engine.connect():
        copy = copies.copy_database(engine, tmp_path)
    engine.dispose()
    assert servers.execute(copy, "SELECT 1 FROM pg_namespace WHERE nspname = 'public'") == []
    copies.drop_copies(copy)


def test_a_role_that_is_no_superuser_copies_what_it_owns(server, tmp_path):
    url = servers.new_database(server, "modest", f"OWNER {quote(ROLE)}")
    own = url.set(username=ROLE)
    servers.execute(own, "CREATE TABLE t AS SELECT 1 AS x")
    engine = sa.create_engine(own)
    for context in (engine.connect, lambda: engine.begin()):
        with context():
            copy = copies.copy_database(engine, tmp_path)
        assert servers.execute(copy, "SELECT * FROM t") == [(1,)]
        saved = copies.save_copy(copy, tmp_path, "saved")
        copies.restore_copy(copy, saved)
        copies.drop_copies(copy)
    engine.dispose()
    servers.drop_database(url)


def test_a_role_that_may_make_no_database_is_told_what_to_do(source, server, tmp_path):
    servers.execute(server, "CREATE ROLE weak LOGIN PASSWORD 'x'",
                    f"GRANT CONNECT ON DATABASE {quote(source.database)} TO weak")
    engine = sa.create_engine(source.set(username="weak", password="x"))
    before = traces(source)
    with pytest.raises(RehearsalError, match="permission denied to create database.*CREATEDB.*copy_to=.*on="):
        copies.copy_database(engine, tmp_path)
    servers.execute(source, f"REVOKE CONNECT ON DATABASE {quote(source.database)} FROM weak", "DROP ROLE weak")
    assert [each for each in traces(source)[:2]] == before[:2]


def test_a_table_that_may_not_be_read_is_named(server, tmp_path):
    url = servers.new_database(server, "closed", f"OWNER {quote(ROLE)}")
    servers.execute(url, "CREATE TABLE secret AS SELECT 1 AS x")
    engine = sa.create_engine(url.set(username=ROLE))
    with engine.connect(), pytest.raises(RehearsalError, match="permission denied for table secret"):
        copies.copy_database(engine, tmp_path)
    engine.dispose()
    servers.drop_database(url)


def test_a_lock_on_the_source_ends_the_copy_and_not_the_patience(source, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(dumps, "_PATIENCE", 100)
    before = traces(source)
    other = sa.create_engine(source)
    with other.begin() as somebody:
        somebody.exec_driver_sql("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(RehearsalError, match="Somebody holds a lock"):
            copies.copy_database(engine, tmp_path)
    other.dispose()
    assert traces(source) == before and list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
import sqlalchemy as sa
from appkit.databases.postgresql import copies
engine = sa.create_engine(sys.argv[1])
with engine.connect():
    print("begun", flush=True)
    copies.copy_database(engine, Path(sys.argv[2]))
    print("copied", flush=True)
    sys.stdin.read()
engine.dispose()
"""


def rows_of(server: sa.URL, statement: str) -> list[tuple]:
    return servers.execute(server, statement)


@pytest.mark.parametrize("moment", ["while it copies", "when it is done"])
def test_a_killed_process_leaves_what_the_next_copy_drops(server, moment, tmp_path):
    url = filled(server, "killed")
    servers.execute(url, "INSERT INTO t (name, n) SELECT repeat('x', 500), g FROM generate_series(1, 150000) AS g")
    before = traces(url)
    text = url.render_as_string(hide_password=False)
    process = subprocess.Popen([sys.executable, "-c", KILLED, text, tmp_path], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    assert process.stdout.readline() == "begun\n"
    if moment == "when it is done":
        assert process.stdout.readline() == "copied\n"
    else:
        until(lambda: rows_of(server, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY public.t %'"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: not rows_of(server, "SELECT 1 FROM pg_stat_activity WHERE datname = 'killed'"))  # its programs too
    assert len(left(server)) == 1
    engine = servers.engine_at(url)
    copy = copies.copy_database(engine, tmp_path)
    assert left(server) == {copy.database}
    copies.drop_copies(copy)
    assert traces(url) == before
    servers.drop_database(url)


def until(true) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_sweep_leaves_what_is_in_use_and_what_only_looks_like_a_copy(server, engine, tmp_path):
    alike = ["appkit_1_abc_copy", "appkit_production", "appkit_1_0123456789ab_", "Appkit_1_0123456789ab_copy"]
    made = [servers.new_database(server, name) for name in alike]
    servers.new_database(server, "appkit_1_0123456789ab_copy")
    copy = copies.copy_database(engine, tmp_path)
    copies.sweep(engine)
    assert {copy.database, *alike} <= servers.databases(server)
    assert "appkit_1_0123456789ab_copy" not in servers.databases(server)
    copies.drop_copies(copy)
    for url in made:
        servers.drop_database(url)


def test_a_forked_child_takes_nothing_away(engine, server, tmp_path):
    copy = copies.copy_database(engine, tmp_path)
    child = os.fork()
    if not child:
        keepers.drop_copies(copy)
        os._exit(0)
    os.waitpid(child, 0)
    copies.sweep(engine)
    assert left(server) == {copy.database}
    copies.drop_copies(copy)


def test_a_copy_goes_with_the_interpreter(engine, source, server, tmp_path):
    text = source.render_as_string(hide_password=False)
    done = subprocess.run([sys.executable, "-W", "error", "-c", KILLED, text, tmp_path], input="", capture_output=True,
                          text=True, cwd=Path(__file__).parent.parent)
    assert (done.stdout, done.stderr) == ("begun\ncopied\n", "")
    assert left(server) == set()


# ---- what stands in for a server

def replayed(primary, url):
    """Wait until a standby has what its primary has written."""
    end, = servers.execute(primary, "SELECT pg_current_wal_lsn()")[0]
    while not servers.execute(url, f"SELECT pg_last_wal_replay_lsn() >= '{end}'")[0][0]:
        time.sleep(0.02)


def test_a_standby_is_copied_to_another_server_and_nothing_is_made_on_it(tmp_path):
    primary = servers.postgresql("18")
    written = servers.new_database(primary)
    servers.execute(written, *(each for each in FILL if ROLE.replace('"', '""') not in each))
    standby = servers.standby().set(database=written.database)
    replayed(primary, standby)
    there = servers.databases(primary)
    read = servers.engine_at(standby)
    with pytest.raises(RehearsalError, match="is a standby, on which nothing can be made. Name another server by copy"):
        copies.copy_database(read, tmp_path)
    with pytest.raises(RehearsalError, match="is a standby"):
        copies.adopt_copy(read)
    copy = copies.copy_database(read, tmp_path, primary)
    rows = "SELECT id, name, mood, at, x, n FROM t ORDER BY id"
    assert servers.execute(copy, rows) == servers.execute(standby, rows)
    copies.drop_copies(copy)
    assert servers.databases(primary) == there
    servers.drop_database(written)


def test_a_pooler_that_lends_sessions_by_turns_is_refused_and_none_of_them_is_changed(tmp_path):
    written = servers.new_database(servers.postgresql("18"))
    url = servers.pooled(written, "transaction")
    engine = servers.engine_at(url)
    with pytest.raises(RehearsalError, match="stands a pooler"):
        copies.copy_database(engine, tmp_path)
    with pytest.raises(RehearsalError, match="stands a pooler"):
        dumps.back_up(engine, "0001", tmp_path)
    with engine.connect() as one, engine.connect() as other:  # the sessions that the app gets next
        for connection in (one, other):
            assert connection.exec_driver_sql("SHOW search_path").scalar_one() == '"$user", public'
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "0"
    servers.drop_database(written)


def test_through_a_pooler_that_keeps_to_a_session_a_database_is_copied_and_backed_up(tmp_path):
    written = servers.new_database(servers.postgresql("18"))
    servers.execute(written, "CREATE TABLE t AS SELECT 1 AS one")
    engine = servers.engine_at(servers.pooled(written, "session"))
    copy = copies.copy_database(engine, tmp_path)
    assert servers.execute(copy, "SELECT one FROM t") == [(1,)]
    copies.drop_copies(copy)
    assert dumps.back_up(engine, "0001", tmp_path).stat().st_size
    servers.drop_database(written)


def test_no_password_is_on_a_command_line(source, engine, tmp_path, monkeypatch):
    seen = []
    run = dumps.run
    monkeypatch.setattr(dumps, "run", lambda command, **more: (seen.extend(map(str, command)), run(command, **more))[1])
    with engine.connect():
        copies.drop_copies(copies.copy_database(engine, tmp_path))
    assert seen and not [part for part in seen if "s3cret" in part or "%+" in part]


def test_a_copy_on_another_server_behaves_as_the_source_does(tmp_path):
    old, new = servers.postgresql("15"), servers.postgresql("18")
    url = servers.new_database(old, "mover")
    servers.execute(old, "CREATE ROLE only_here", "ALTER ROLE postgres IN DATABASE mover SET timezone = 'Asia/Tokyo'")
    servers.execute(url, "CREATE TABLE t AS SELECT '2020-01-01 00:00+00'::timestamptz AS x",
                    "ALTER TABLE t OWNER TO only_here")
    engine = sa.create_engine(url)
    copy = copies.copy_database(engine, tmp_path, to=new)
    assert servers.execute(copy, "SELECT x::text FROM t") == [("2020-01-01 09:00:00+09",)]
    assert any("only_here" in note for note in copies.notes_of(copy))
    assert copy.port == new.port and copies.place_of(engine) != copies.place_of(sa.create_engine(copy))
    copies.drop_copies(copy)
    servers.drop_database(url)
    servers.execute(old, "DROP ROLE only_here")


def test_newer_programs_serve_an_older_server(tmp_path, monkeypatch):
    url = servers.new_database(servers.postgresql("15"), "older")
    servers.execute(url, "CREATE TABLE t AS SELECT 1 AS x")
    monkeypatch.setattr(dumps, "_folders", lambda: iter([servers._programs("18")]))
    engine = sa.create_engine(url)
    with engine.connect():
        copy = copies.copy_database(engine, tmp_path)
    engine.dispose()
    assert servers.execute(copy, "SELECT * FROM t") == [(1,)]
    copies.drop_copies(copy)
    servers.drop_database(url)


def test_missing_programs_are_told(tmp_path, monkeypatch):
    url = servers.new_database(servers.postgresql("18"), "newer")
    monkeypatch.setattr(dumps, "_folders", lambda: iter([Path("/usr/lib/postgresql/15/bin")]))
    engine = sa.create_engine(url)
    with engine.connect(), pytest.raises(RehearsalError, match="PostgreSQL 18 takes pg_dump.*found: 15.*Install"):
        copies.copy_database(engine, tmp_path)
    engine.dispose()
    servers.drop_database(url)


def test_the_apps_pool_is_neither_used_nor_filled(source, tmp_path):
    engine = sa.create_engine(source, pool_size=1, max_overflow=0, pool_timeout=1)
    with engine.connect():
        copies.place_of(engine), copies.size_of(engine)
        copies.drop_copies(copies.copy_database(engine, tmp_path))
    engine.dispose()
    engine = sa.create_engine(source)
    copies.place_of(engine)
    assert engine.pool.checkedin() == 0


def test_places_tell_databases_apart_and_connections_stay_as_they_were(server, source, engine):
    other = servers.engine_at(server)
    assert copies.place_of(engine) != copies.place_of(other)
    assert copies.place_of(sa.create_engine(source)) == copies.place_of(engine)
    pooled = engine.raw_connection()
    driver = pooled.driver_connection
    assert copies.is_connection(driver) and not copies.is_connection(pooled)
    assert copies.place_behind(driver) == copies.place_of(engine)
    assert driver.info.transaction_status.name == "IDLE"
    driver.execute("CREATE TABLE unfinished (id int)")
    copies.place_behind(driver)
    assert driver.info.transaction_status.name == "INTRANS"
    driver.rollback()
    pooled.close()


def test_a_place_does_not_depend_on_the_sessions_settings(source):
    first = sa.create_engine(source, connect_args={"options": "-c timezone=UTC -c extra_float_digits=-3"})
    second = sa.create_engine(source, connect_args={"options": "-c timezone=Asia/Tokyo -c search_path="})
    assert copies.place_of(first) == copies.place_of(second)


def test_a_backup_is_a_whole_private_file_with_a_name_of_its_own(source, engine, tmp_path):
    first, second = (copies.back_up(engine, "abc", tmp_path) for _ in range(2))
    assert [first.name, second.name] == ["plain.before-abc.dump", "plain.before-abc-2.dump"]
    assert first.stat().st_mode & 0o777 == 0o600
    listed = subprocess.run([servers._programs("18") / "pg_restore", "--list", first], capture_output=True, text=True)
    assert "TABLE DATA public t" in listed.stdout


def test_a_backup_that_fails_leaves_no_file(source, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(dumps, "_PATIENCE", 100)
    other = sa.create_engine(source)
    with other.begin() as somebody:
        somebody.exec_driver_sql("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(RehearsalError, match="Cannot back up"):
            copies.back_up(engine, "abc", tmp_path)
    other.dispose()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_gone_is_told(tmp_path):
    url = servers.postgresql("18").set(port=1)
    with pytest.raises(RehearsalError, match="Cannot reach the database at postgresql.*\\*\\*\\*"):
        copies.copy_database(sa.create_engine(url), tmp_path)
