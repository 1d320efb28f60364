"""Private copies on MariaDB: exact, theirs alone, and made without a trace on the source."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from appkit.databases import keepers
from appkit.databases.mariadb import copies, dumps
from appkit.errors import RehearsalError
from tests import servers

NAMES = ("plain", "My `Db` 'x' %s é", "UPPER", "sp ace\\back", "-select")
FILL = (
    "SET SESSION sql_mode = ''",
    "CREATE TABLE parent (id int PRIMARY KEY AUTO_INCREMENT, name varchar(20) COMMENT 'it''s 100 %%') "
    "AUTO_INCREMENT = 900",
    "INSERT INTO parent VALUES (0, 'zero'), (1, 'é🙂')",
    "UPDATE parent SET id = 0 WHERE name = 'zero'",
    "CREATE TABLE `a b` (id int, day date, b varbinary(9), d double, up varchar(9) AS (upper(b)) STORED, "
    "bad int CHECK (bad > 0), FOREIGN KEY (id) REFERENCES parent (id))",
    "SET SESSION check_constraint_checks = 0, sql_mode = ''",
    "INSERT INTO `a b` (id, day, b, d, bad) VALUES (1, '0000-00-00', x'00ff27', 1e300, -1), "
    "(NULL, NULL, NULL, 0.1, NULL)",
    "CREATE TABLE latin (x varchar(9) DEFAULT 'é') CHARACTER SET latin1 COLLATE latin1_german1_ci",
    "INSERT INTO latin VALUES ('ü')",
    "CREATE SEQUENCE s START WITH 7", "SELECT nextval(s)",
    "CREATE VIEW second AS SELECT 1 AS x",
    "CREATE VIEW first AS SELECT second.x, name FROM second, parent",
    "CREATE PROCEDURE p() UPDATE parent SET name = 'p;'",
    "CREATE FUNCTION f() RETURNS int DETERMINISTIC RETURN 1",
    "CREATE TRIGGER tr BEFORE INSERT ON parent FOR EACH ROW SET NEW.name = concat(NEW.name, ';')",
    "CREATE EVENT ev ON SCHEDULE EVERY 1 SECOND COMMENT 'it''s' DO INSERT INTO parent (name) VALUES ('event')",
)
CONTENT = ("SELECT * FROM parent ORDER BY id", "SELECT * FROM `a b` ORDER BY id", "SELECT * FROM latin",
           "SELECT * FROM first", "SHOW CREATE TABLE parent", "SHOW CREATE TABLE `a b`", "SHOW CREATE TABLE latin",
           "SHOW CREATE VIEW first", "SHOW CREATE PROCEDURE p", "SHOW CREATE FUNCTION f", "SHOW CREATE TABLE s",
           "SELECT next_not_cached_value FROM s", "SHOW TABLES",
           "SELECT trigger_name, action_statement, definer, sql_mode FROM information_schema.triggers "
           "WHERE trigger_schema = database()",
           "SELECT default_character_set_name, default_collation_name FROM information_schema.schemata "
           "WHERE schema_name = database()",
           "SELECT event_name, event_definition, interval_value, starts, event_comment, definer, sql_mode "
           "FROM information_schema.events WHERE event_schema = database()")
TRACES = (*CONTENT, "SELECT name, table_id, space FROM information_schema.innodb_sys_tables "
          "WHERE name NOT LIKE 'appkit%%' ORDER BY 1",
          "SELECT event_name, status FROM information_schema.events WHERE event_schema = database()")


def content(url: sa.URL, asked: tuple = CONTENT) -> list[list[tuple]]:
    return [servers.execute(url, each.replace("%%", "%")) for each in asked]


def left(server: sa.URL) -> set[str]:
    return {name for name in servers.databases(server) if name.startswith("appkit_")}


@pytest.fixture
def server():
    url = servers.mariadb()
    yield url
    behind = left(url)
    for name in behind:
        servers.drop_database(url.set(database=name))
    assert behind == set()


def filled(server: sa.URL, name: str) -> sa.URL:
    url = servers.new_database(server, name, "CHARACTER SET utf8mb4 COLLATE utf8mb4_spanish_ci")
    engine = sa.create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        for statement in FILL:
            connection.exec_driver_sql(statement)
        connection.commit()
    return url


@pytest.fixture(params=["plain"])
def source(server, request):
    url = filled(server, request.param)
    yield url
    servers.drop_database(url)


@pytest.fixture
def engine(source):
    made = sa.create_engine(source, poolclass=NullPool)
    yield made
    made.dispose()


@pytest.mark.parametrize("source", NAMES, indirect=True)
def test_a_copy_holds_everything_and_the_source_is_as_it_was(source, engine, tmp_path):
    before, wanted = content(source, TRACES), content(source)
    with engine.connect():
        url = copies.copy_database(engine, tmp_path)
    assert content(url) == wanted
    assert copies.notes_of(url) == []
    copies.drop_copies(url)
    assert content(source, TRACES) == before
    assert list(tmp_path.iterdir()) == []


def test_a_state_is_kept_and_put_back(source, engine, server, tmp_path):
    url = copies.copy_database(engine, tmp_path)
    wanted = content(url)
    start = copies.save_copy(url, tmp_path, "start")
    for _ in range(2):
        servers.execute(url, "DROP TABLE `a b`", "DROP TABLE parent", "DROP VIEW first", "DROP PROCEDURE p",
                        "DROP EVENT ev", f"ALTER DATABASE {url.database} COLLATE utf8mb4_bin")
        copies.restore_copy(url, copies.save_copy(start, tmp_path, "saved"))
        assert content(url) == wanted
    assert left(server) == {url.database, start.database}
    copies.drop_copy(start)
    assert left(server) == {url.database}
    copies.drop_copies(url)


def test_a_foreign_key_still_holds_in_what_was_put_back(source, engine, tmp_path):
    url = copies.copy_database(engine, tmp_path)
    copies.restore_copy(url, copies.save_copy(url, tmp_path, "saved"))
    with pytest.raises(sa.exc.IntegrityError, match="foreign key"):
        servers.execute(url, "INSERT INTO `a b` (id) VALUES (12345)")
    copies.drop_copies(url)


def test_a_float_keeps_every_bit_when_a_copy_is_kept_and_is_told_when_one_is_made(source, engine, tmp_path):
    servers.execute(source, "CREATE TABLE f (x float)")
    url = copies.copy_database(engine, tmp_path)
    assert copies.notes_of(url) == ["f.x: FLOAT, of which the dump tool writes six digits"]
    servers.execute(url, "INSERT INTO f VALUES (16777215)")
    copies.restore_copy(url, copies.save_copy(url, tmp_path, "saved"))
    assert servers.execute(url, "SELECT CAST(x AS double) FROM f") == [(16777215.0,)]
    copies.drop_copies(url)


def test_an_event_does_not_run_in_a_copy(source, engine, server, tmp_path):
    servers.execute(source, "ALTER EVENT ev DISABLE")
    servers.execute(server, "SET GLOBAL event_scheduler = ON")
    try:
        url = copies.copy_database(engine, tmp_path)
        copies.restore_copy(url, copies.save_copy(url, tmp_path, "saved"))
    finally:
        servers.execute(server, "SET GLOBAL event_scheduler = OFF")
    asked = "SELECT event_name, status FROM information_schema.events WHERE event_schema = database()"
    assert servers.execute(url, asked) == [("ev", "DISABLED")]
    copies.drop_copies(url)


@pytest.mark.parametrize("written", [
    "CREATE TRIGGER bad AFTER INSERT ON latin FOR EACH ROW INSERT INTO plain.parent (name) VALUES ('x')",
    "CREATE PROCEDURE bad() UPDATE `plain` . parent SET name = ''",
    "CREATE FUNCTION bad() RETURNS int RETURN (SELECT plain.f())",
    "CREATE VIEW bad AS SELECT parent.id FROM parent, mysql.help_topic"])
def test_what_names_the_real_database_is_refused(source, engine, written, tmp_path):
    servers.execute(source, written)
    with pytest.raises(RehearsalError, match="bad: written with the name of the database 'plain'"):
        copies.copy_database(engine, tmp_path)


def test_a_table_of_the_databases_name_is_no_database(source, engine, tmp_path):
    servers.execute(source, "CREATE TABLE plain (id int)", "CREATE PROCEDURE q() SELECT plain.id FROM plain",
                    "CREATE VIEW w AS SELECT plain.id FROM plain")
    copies.drop_copies(copies.copy_database(engine, tmp_path))


def test_other_engines_are_told(source, engine, tmp_path):
    servers.execute(source, "CREATE TABLE old (id int) ENGINE = MyISAM",
                    "CREATE TABLE h (id int) WITH SYSTEM VERSIONING")
    url = copies.copy_database(engine, tmp_path)
    assert copies.notes_of(url) == ["old: not of InnoDB, so perhaps not of the same moment as the rest",
                                    "h: without the rows of earlier times"]
    copies.drop_copies(url)


def test_an_empty_database_is_alike_and_empty(source, engine, tmp_path):
    url = copies.copy_database(engine, tmp_path)
    for _ in range(2):
        empty = copies.empty_database(tmp_path, url)
        assert servers.execute(empty, "SHOW TABLES") == []
        assert servers.execute(empty, "SELECT @@collation_database") == [("utf8mb4_spanish_ci",)]
        servers.execute(empty, "CREATE TABLE t (id int)")
    copies.drop_copies(url)


@pytest.mark.parametrize("password", ["p\"#\\ 'x;=", " [client]\t", servers.PASSWORD])
def test_a_hostile_password_reaches_the_programs_and_no_command_line(source, server, password, tmp_path, monkeypatch):
    quoted = password.replace("\\", "\\\\").replace("'", "''")
    servers.execute(server, f"CREATE OR REPLACE USER modest@'127.0.0.1' IDENTIFIED BY '{quoted}'",
                    "GRANT ALL ON *.* TO modest@'127.0.0.1'")
    seen = []
    run = dumps.run
    monkeypatch.setattr(dumps, "run", lambda command, **more: (seen.extend(map(str, command)), run(command, **more))[1])
    engine = sa.create_engine(source.set(username="modest", password=password), poolclass=NullPool)
    copies.drop_copies(copies.copy_database(engine, tmp_path))
    assert seen and not [part for part in seen if password in part]
    servers.execute(server, "DROP USER modest@'127.0.0.1'")


def test_a_user_that_may_make_no_database_is_told_what_to_do(source, server, tmp_path):
    servers.execute(server, "CREATE OR REPLACE USER weak@'127.0.0.1' IDENTIFIED BY 'x'",
                    "GRANT ALL ON plain.* TO weak@'127.0.0.1'")
    engine = sa.create_engine(source.set(username="weak", password="x"), poolclass=NullPool)
    with pytest.raises(RehearsalError, match="Access denied.*GRANT ALL ON `appkit.*copy_to=.*on="):
        copies.copy_database(engine, tmp_path)
    servers.execute(server, "DROP USER weak@'127.0.0.1'")


KILLED = """
import sys
from pathlib import Path
import sqlalchemy as sa
from appkit.databases.mariadb import copies
engine = sa.create_engine(sys.argv[1])
print("begun", flush=True)
copies.copy_database(engine, Path(sys.argv[2]))
print("copied", flush=True)
sys.stdin.read()
engine.dispose()
"""


@pytest.mark.parametrize("moment", ["while it copies", "when it is done"])
def test_a_killed_process_leaves_what_the_next_copy_drops(server, moment, tmp_path):
    url = filled(server, "killed")
    servers.execute(url, "CREATE TABLE much AS SELECT seq, repeat('x', 300) AS x FROM seq_1_to_200000")
    before = content(url, TRACES)
    text = url.render_as_string(hide_password=False)
    process = subprocess.Popen([sys.executable, "-c", KILLED, text, tmp_path], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    assert process.stdout.readline() == "begun\n"
    if moment == "when it is done":
        assert process.stdout.readline() == "copied\n"
    else:
        until(lambda: "INSERT INTO `much`" in str(servers.execute(server, "SHOW FULL PROCESSLIST")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: not servers.execute(server, "SELECT 1 FROM information_schema.processlist WHERE db LIKE 'appkit%' "
                                              "OR db = 'killed'"))  # its programs died too
    assert len(left(server)) == 1
    engine = sa.create_engine(url, poolclass=NullPool)
    copy = copies.copy_database(engine, tmp_path)
    assert left(server) == {copy.database}
    copies.drop_copies(copy)
    assert content(url, TRACES) == before
    servers.drop_database(url)


def until(true) -> None:
    deadline = time.monotonic() + 30
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


def test_a_copy_goes_with_the_interpreter(source, server, tmp_path):
    text = source.render_as_string(hide_password=False)
    done = subprocess.run([sys.executable, "-W", "error", "-c", KILLED, text, tmp_path], input="", capture_output=True,
                          text=True, cwd=Path(__file__).parent.parent)
    assert (done.stdout, done.stderr) == ("begun\ncopied\n", "")
    assert left(server) == set()


def test_places_tell_databases_apart_and_connections_stay_as_they_were(server, source, engine):
    other = sa.create_engine(server, poolclass=NullPool)
    assert copies.place_of(engine) != copies.place_of(other)
    pooled = engine.raw_connection()
    driver = pooled.driver_connection
    assert copies.is_connection(driver) and not copies.is_connection(pooled)
    assert copies.place_behind(driver) == copies.place_of(engine) == copies.place_of(sa.create_engine(source))
    assert not driver.server_status & 1  # no transaction
    pooled.close()


def test_the_apps_pool_is_neither_used_nor_filled(source, tmp_path):
    engine = sa.create_engine(source, pool_size=1, max_overflow=0, pool_timeout=1)
    with engine.connect():
        assert copies.place_of(engine) and copies.size_of(engine) > 0
        copies.drop_copies(copies.copy_database(engine, tmp_path))
    engine.dispose()


def test_a_backup_is_a_whole_private_file_with_a_name_of_its_own(source, engine, tmp_path):
    first, second = (copies.back_up(engine, "abc", tmp_path) for _ in range(2))
    assert [first.name, second.name] == ["plain.before-abc.sql", "plain.before-abc-2.sql"]
    assert first.stat().st_mode & 0o777 == 0o600
    assert all(text in first.read_text() for text in ("INSERT INTO `parent`", "EVENT `ev`", "PROCEDURE `p`", "TRIGGER"))


def test_a_backup_that_fails_leaves_no_file(source, engine, tmp_path):
    servers.execute(source, "CREATE VIEW broken AS SELECT x FROM latin", "DROP TABLE latin")
    with pytest.raises(RehearsalError, match="Cannot back up.*broken"):
        copies.back_up(engine, "abc", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_gone_is_told(tmp_path):
    url = servers.mariadb().set(port=1)
    with pytest.raises(RehearsalError, match="Cannot reach the server 127.0.0.1:1"):
        copies.copy_database(sa.create_engine(url), tmp_path)
