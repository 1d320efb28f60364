"""The real database is only read: whatever a rehearsal meets, the source stays as it is, and no copy outlives it."""
import gc
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from apps import IGNORED, make_app, read_sql, run_sql, write_revision
from flask import Flask

import appkit

pytestmark = pytest.mark.filterwarnings(IGNORED)

TESTS = Path(__file__).resolve().parent
SETUP = """
CREATE TABLE user (id INTEGER PRIMARY KEY, name VARCHAR(20), zip VARCHAR(10));
CREATE TABLE book (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES user (id) ON DELETE CASCADE);
CREATE TRIGGER seen AFTER DELETE ON user BEGIN DELETE FROM book WHERE user_id = old.id; END;
INSERT INTO user VALUES (1, 'ann', '007'), (2, NULL, x'ff'), (3, 'größe', '13');
INSERT INTO book VALUES (1, 1), (2, 2);
"""
HARMFUL = """
with op.batch_alter_table('user') as batch:
    batch.drop_column('zip')
op.execute("DELETE FROM user WHERE id = 1")
op.drop_table('book')
"""
RESTORING = """
op.add_column('user', sa.Column('zip', sa.String(10)))
op.create_table('book', sa.Column('id', sa.Integer, primary_key=True), sa.Column('user_id', sa.Integer))
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """Keep the copies of one test in a folder of its own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def app(tmp_path) -> Iterator[Flask]:
    made = make_app(tmp_path, SETUP)
    yield made
    with made.app_context():
        made.extensions["sqlalchemy"].engine.dispose()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "app.db"


def contents(path: Path) -> tuple[bytes, list[str], list[tuple]]:
    """Give a database file's bytes, its rows and its catalogue."""
    stored = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        return stored, *told(connection)


def told(connection: sqlite3.Connection) -> tuple[list[str], list[tuple]]:
    rows = [(table, connection.execute(f"SELECT rowid, * FROM {table}").fetchall())
            for table, in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
    return list(map(repr, rows)), connection.execute("SELECT * FROM sqlite_master").fetchall()


def copies(folder: Path) -> list[str]:
    """Give every file that stands in a temporary folder, as a path in it."""
    return sorted(str(found.relative_to(folder)) for found in folder.rglob("*") if not found.is_dir())


# ---- what a script does

@pytest.mark.parametrize("downgrade", [True, False])
def test_a_rehearsal_leaves_the_source_as_it_is(app, path, downgrade):
    write_revision(app, "1", HARMFUL, RESTORING)
    before = contents(path)
    rehearsal = appkit.rehearse(app, downgrade=downgrade)
    assert not rehearsal.safe and rehearsal.ledger["lost"].sum() > 0
    assert contents(path) == before
    assert appkit.rehearse(app).ledger.equals(rehearsal.ledger)


@pytest.mark.parametrize("script", [
    "raise RuntimeError('no')", "raise SystemExit(3)", "op.execute('INSERT INTO nowhere VALUES (1)')",
    "with op.batch_alter_table('user') as batch:\n    batch.alter_column('name', nullable=False)",
    "op.execute('COMMIT'); op.execute('PRAGMA user_version = 7'); 1 / 0",
])
@pytest.mark.parametrize("where", ["upgrade", "downgrade"])
def test_a_script_that_fails_leaves_the_source_as_it_is(app, path, temporary, script, where):
    write_revision(app, "1", *([HARMFUL + script] if where == "upgrade" else [HARMFUL, script]))
    before = contents(path)
    assert {"fails", "not-reversible"} & set(appkit.rehearse(app).findings["finding"])
    assert contents(path) == before
    gc.collect()
    assert copies(temporary) == []


def test_a_script_that_cannot_be_read_leaves_the_source_as_it_is(app, path, temporary):
    write_revision(app, "1", head="raise RuntimeError('at import')")
    before = contents(path)
    with pytest.raises(appkit.RehearsalError, match="RuntimeError: at import"):
        appkit.rehearse(app)
    assert contents(path) == before
    assert copies(temporary) == []


@pytest.mark.parametrize("where", [0, 1])
def test_an_interrupt_ends_the_rehearsal_and_leaves_nothing(app, path, temporary, where):
    bodies = [HARMFUL, RESTORING]
    bodies[where] += "raise KeyboardInterrupt"
    write_revision(app, "1", *bodies)
    before = contents(path)
    with pytest.raises(KeyboardInterrupt) as caught:
        appkit.rehearse(app)
    assert list(temporary.iterdir()) == [] and caught  # not even while somebody holds the traceback
    assert contents(path) == before
    write_revision(app, "1")
    assert appkit.rehearse(app).safe


# ---- what a script reaches for

REACHES = {
    "an engine of its URL": "sa.create_engine(url).connect().exec_driver_sql(sql)",
    "an engine of a URI": "sa.create_engine(f'sqlite:///file:{path}?uri=true').connect().exec_driver_sql(sql)",
    "an engine with a creator": "sa.create_engine('sqlite://', creator=lambda: sqlite3.connect(path)).connect()",
    "a creator that lends": "sa.create_engine('sqlite://', creator=lambda: given['DRIVER']).connect()",
    "an open connection": "given['CONNECTION'].exec_driver_sql(sql)",
    "the app's engine": "given['ENGINE'].connect().exec_driver_sql(sql)",
    "the app's engine, in a session": "sa.orm.Session(given['ENGINE']).execute(sa.text(sql))",
    "sqlite3": "sqlite3.connect(path)",
    "sqlite3, a Path": "sqlite3.connect(pathlib.Path(path))",
    "sqlite3, bytes": "sqlite3.connect(os.fsencode(path))",
    "sqlite3, a keyword": "sqlite3.connect(database=path)",
    "sqlite3, a URI": "sqlite3.connect(f'file:{path}?mode=ro', uri=True)",
    "sqlite3, a URI with a host": "sqlite3.connect(f'file://localhost{path}', uri=True)",
    "sqlite3, from where it stands": "sqlite3.connect(os.path.relpath(path))",
    "sqlite3, a link": "os.symlink(path, path + '.link'); sqlite3.connect(path + '.link')",
    "ATTACH": "op.execute(f\"ATTACH '{path}' AS source\")",
    "ATTACH with a parameter": "op.get_bind().exec_driver_sql('ATTACH ? AS source', (path,))",
}
REACHING = """
import os, pathlib, sqlite3
from flask import current_app
given = current_app.config
path, url, sql = given["PLACE"], f"sqlite:///{given['PLACE']}", "DELETE FROM user"
"""


@pytest.fixture
def open_app(app, path):
    """The app at work: a connection in use, another waiting in the pool, one of the driver's."""
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine
    with closing(sqlite3.connect(path, check_same_thread=False)) as driver, engine.connect() as connection:
        engine.connect().close()
        app.config.update(PLACE=str(path), ENGINE=engine, CONNECTION=connection, DRIVER=driver)
        yield app


@pytest.mark.parametrize("reach, swallowed", [
    *((reach, False) for reach in REACHES), ("sqlite3", True), ("ATTACH", True), ("an open connection", True)])
def test_a_script_that_reaches_for_the_source_is_refused(open_app, path, temporary, reach, swallowed):
    script = f"try:\n    {REACHES[reach]}\nexcept Exception:\n    pass" if swallowed else REACHES[reach]
    write_revision(open_app, "1", REACHING + script)
    before = contents(path)
    with pytest.raises(appkit.SourceTouchedError, match="(?s)Revision 1: .*reached for the real database") as caught:
        appkit.rehearse(open_app)
    assert isinstance(caught.value, appkit.RehearsalError)
    open_app.config["CONNECTION"].rollback()
    assert contents(path) == before
    assert copies(temporary) == []


def test_a_downgrade_that_reaches_for_the_source_is_refused_too(open_app, path):
    write_revision(open_app, "1", downgrade=REACHING + REACHES["sqlite3"])
    before = contents(path)
    with pytest.raises(appkit.SourceTouchedError):
        appkit.rehearse(open_app)
    assert contents(path) == before


def test_a_script_may_open_other_databases(open_app, path):
    other = "sqlite3.connect(path + '.other').close()\nsqlite3.connect(':memory:').close()"
    write_revision(open_app, "1", REACHING + other)
    assert appkit.rehearse(open_app).safe


def test_the_source_can_be_opened_again_afterwards(open_app, path):
    write_revision(open_app, "1", REACHING + REACHES["sqlite3"])
    with pytest.raises(appkit.SourceTouchedError):
        appkit.rehearse(open_app)
    with open_app.app_context():
        session = open_app.extensions["sqlalchemy"].session
        assert session.execute(sa.text("SELECT count(*) FROM user")).scalar() == 3
    sqlite3.connect(path).close()


def test_threads_that_were_there_before_use_the_app_meanwhile(open_app, path):
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(30)
        with open_app.app_context():
            session = open_app.extensions["sqlalchemy"].session
            session.execute(sa.text("INSERT INTO user (name) VALUES ('meanwhile')"))
            session.commit()
        sqlite3.connect(path).close()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    open_app.config.update(WORK=lambda: (go.set(), done.wait(30)))
    write_revision(open_app, "1", REACHING + "given['WORK']()")
    rehearsal = appkit.rehearse(open_app)
    thread.join()
    assert rehearsal.safe and set(rehearsal.table("user")["name"].dropna()) == {"ann", "größe"}
    with closing(sqlite3.connect(path)) as connection:
        assert len(connection.execute("SELECT name FROM user WHERE name = 'meanwhile'").fetchall()) == 1


THREAD = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(1) as pool:
    pool.submit(work).result()
"""


def test_a_thread_that_the_migration_starts_is_kept_from_the_source(app, path):
    before = path.read_bytes()
    write_revision(app, "1", f"import sqlite3\ndef work():\n    sqlite3.connect({str(path)!r}).execute('DELETE FROM user')\n"
                   + THREAD)
    with pytest.raises(appkit.SourceTouchedError):
        appkit.rehearse(app)
    assert path.read_bytes() == before


def test_what_a_thread_of_the_migration_writes_to_the_copy_is_seen(app):
    write_revision(app, "1", """
        from flask import current_app
        here = current_app._get_current_object()
        def work():
            with here.app_context(), here.extensions["sqlalchemy"].engine.begin() as connection:
                connection.exec_driver_sql("UPDATE user SET name = 'LOST'")
    """ + textwrap.indent(THREAD, "        "))
    rehearsal = appkit.rehearse(app, downgrade=False)
    assert not rehearsal.safe and "values-changed" in set(rehearsal.findings["finding"])


def test_an_engine_that_makes_its_own_connections_is_refused(tmp_path, path, app):
    before = path.read_bytes()
    (tmp_path / "own").mkdir()
    own = make_app(tmp_path / "own", url="sqlite://",
                   config={"SQLALCHEMY_ENGINE_OPTIONS": {"creator": lambda: sqlite3.connect(path)}})
    write_revision(own, "1", "op.execute('DELETE FROM user')")
    with pytest.raises(appkit.RehearsalError):
        appkit.rehearse(own)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["file:{}?mode=rw", "{}"])
def test_no_other_file_can_be_attached(tmp_path, name, app):
    other = tmp_path / "other.db"
    run_sql(other, "CREATE TABLE log (a); INSERT INTO log VALUES (1);")
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute(
            "ATTACH '" + name.format(other) + "' AS other") and None)
    write_revision(app, "1", "op.execute('DELETE FROM other.log')")
    with pytest.raises(appkit.RehearsalError):
        appkit.rehearse(app)
    assert read_sql(other, "SELECT a FROM log") == [(1,)]


def test_a_database_that_stays_locked_is_told_and_not_waited_for(app, path, monkeypatch):
    monkeypatch.setattr("appkit.databases.sqlite.copies._PATIENCE", 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(appkit.RehearsalError, match="it is locked, for more than 1 seconds"):
            appkit.rehearse(app)


def test_a_damaged_database_is_told(app, path):
    run_sql(path, "CREATE TABLE many (id INTEGER PRIMARY KEY, a TEXT); INSERT INTO many SELECT value, hex(randomblob(50)) "
            "FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 5000) SELECT * FROM n);")
    content = bytearray(path.read_bytes())
    content[-20_000:-4_000] = b"\xff" * 16_000
    path.write_bytes(content)
    write_revision(app, "1")
    with pytest.raises(appkit.RehearsalError, match="damaged|Cannot"):
        appkit.rehearse(app)


# ---- what the source is

def test_rows_in_a_write_ahead_log_are_in_the_copy_and_stay_in_the_log(app, path):
    write_revision(app, "1", HARMFUL, RESTORING)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.executemany("INSERT INTO user VALUES (?, 'x', 'y')", [(number,) for number in range(10, 1010)])
        connection.commit()
        log = path.with_name("app.db-wal")
        before = path.read_bytes(), log.read_bytes(), told(connection)
        rehearsal = appkit.rehearse(app)
        assert len(rehearsal.table("user", at="base")) == 1003
        assert (path.read_bytes(), log.read_bytes(), told(connection)) == before


def test_a_log_that_a_killed_process_left_is_read_and_left(app, tmp_path):
    write_revision(app, "1", HARMFUL, RESTORING)
    alive, path = tmp_path / "alive.db", tmp_path / "app.db"
    path.unlink()
    with closing(sqlite3.connect(alive)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SETUP)
        names = "", "-wal"
        for end in names:
            Path(f"{path}{end}").write_bytes(Path(f"{alive}{end}").read_bytes())
    before = [Path(f"{path}{end}").read_bytes() for end in names]
    assert len(appkit.rehearse(app).table("user", at="base")) == 3
    assert [Path(f"{path}{end}").read_bytes() for end in names] == before


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_source_that_is_being_read_or_written_is_copied_as_committed(app, path, journal):
    write_revision(app, "1", HARMFUL, RESTORING)
    run_sql(path, f"PRAGMA journal_mode = {journal}")
    with closing(sqlite3.connect(path)) as reader, closing(sqlite3.connect(path)) as writer:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM user").fetchone()
        writer.execute("INSERT INTO user (name) VALUES ('uncommitted')")
        rehearsal = appkit.rehearse(app)
        assert len(rehearsal.table("user", at="base")) == 3
        reader.rollback()
        writer.commit()
        assert reader.execute("SELECT count(*) FROM user").fetchone() == (4,)


def test_a_source_that_was_never_made_is_not_made(tmp_path, path):
    app = make_app(tmp_path)
    create = "op.create_table('t', sa.Column('id', sa.Integer, primary_key=True))"
    write_revision(app, "1", create, "op.drop_table('t')")
    rehearsal = appkit.rehearse(app)
    assert rehearsal.ledger["table"].tolist() == ["t"]
    assert not path.exists() and not list(tmp_path.glob("app.db*"))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///file::memory:?uri=true"])
def test_a_source_in_memory_is_copied_through_its_only_connection(tmp_path, url):
    app = make_app(tmp_path, url=url)
    write_revision(app, "1", HARMFUL, RESTORING)
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine
    with closing(engine.raw_connection()) as pooled:
        pooled.driver_connection.executescript(SETUP)
        before = told(pooled.driver_connection)
        rehearsal = appkit.rehearse(app)
        assert len(rehearsal.table("user", at="base")) == 3 and len(rehearsal.table("user")) < 3
        assert told(pooled.driver_connection) == before
    engine.dispose()


@pytest.mark.parametrize("name", ["app.db", "a b%23ü.db", "what?.db", "100%.db"])
def test_a_source_named_by_a_uri_is_copied_and_guarded(tmp_path, name):
    from urllib.parse import quote

    path = tmp_path / name
    run_sql(path, SETUP)
    url = sa.URL.create("sqlite", database=f"file:{quote(str(path))}", query={"uri": "true", "mode": "rw"})
    app = make_app(tmp_path, url=url, config={"PLACE": str(path)})
    write_revision(app, "1", HARMFUL, RESTORING)
    before = contents(path)
    assert len(appkit.rehearse(app).table("user", at="base")) == 3
    write_revision(app, "1", REACHING + "sqlite3.connect(path).execute(sql)")
    with pytest.raises(appkit.SourceTouchedError):
        appkit.rehearse(app)
    assert contents(path) == before


# ---- what is left

PEEK = """
import pathlib, stat
place = pathlib.Path(op.get_bind().engine.url.database).parent
current_app.config["MODES"] += [(found.name, stat.S_IMODE(found.stat().st_mode))
                               for folder in place.parent.glob("appkit-*") for found in [folder, *folder.iterdir()]]
"""


def test_a_copy_is_private_while_it_lives(app, temporary):
    app.config["MODES"] = modes = []
    for number in (1, 2):
        write_revision(app, f"{number}", "from flask import current_app\n" + PEEK, follows="1" if number == 2 else None)
    rehearsal = appkit.rehearse(app)
    assert rehearsal.safe and "copy.db" in dict(modes)
    assert {mode for name, mode in modes if name.startswith("appkit-")} == {0o700}
    assert {(name, mode) for name, mode in modes if name.endswith((".db", ".duckdb"))} == {
        ("copy.db", 0o600), ("saved.db", 0o600), ("start.db", 0o600), ("snapshots.duckdb", 0o600)}


def test_no_copy_of_the_file_outlives_the_rehearsal_and_the_rows_go_with_the_result(app, temporary):
    write_revision(app, "1", HARMFUL, RESTORING)
    rehearsal = appkit.rehearse(app)
    assert {name.partition("/")[2] for name in copies(temporary)} <= {"large", "snapshots.duckdb", "snapshots.duckdb.wal",
                                                                     "start.db"}
    del rehearsal
    gc.collect()
    assert list(temporary.iterdir()) == []


def rehearse_until(app: Flask, seconds: float | None) -> int:
    """Rehearse in a child process and kill it after some seconds; give its exit status, -9 when it was killed."""
    child = os.fork()
    if not child:
        try:
            appkit.rehearse(app)
            os._exit(0)
        finally:
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def print_kills(folder: str, times: int, seed: int) -> None:
    """Kill rehearsals at random moments, at least so many and until one leaves a copy; print what was seen after each.

    To be run in a process of its own, which has no threads.
    """
    path, chance = Path(folder) / "app.db", random.Random(seed)
    app, before, seen = make_app(Path(folder)), contents(path), []
    started = time.monotonic()
    assert rehearse_until(app, None) == 0
    whole = time.monotonic() - started
    while len(seen) < 2 * times and (len(seen) < times or not seen[-1]["left"]):
        status = rehearse_until(app, whole * chance.random())
        seen.append({"status": status, "same": contents(path) == before, "left": copies(Path(tempfile.gettempdir()))})
    print(json.dumps(seen))


def test_a_kill_at_any_moment_leaves_the_source_and_the_next_rehearsal_clears_up(app, tmp_path, temporary):
    write_revision(app, "1", HARMFUL, RESTORING)
    write_revision(app, "2", "op.execute('UPDATE user SET name = NULL')", follows="1")
    call = f"import test_source; test_source.print_kills({str(tmp_path)!r}, 50, seed=7)"
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    ran = subprocess.run([sys.executable, "-W", IGNORED, "-c", call], capture_output=True, text=True, timeout=180,
                         env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": path})
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert len(seen) >= 50 and all(kill["same"] for kill in seen) and {kill["status"] for kill in seen} <= {0, -9}
    assert sum(kill["status"] == -9 for kill in seen) > 25 and copies(temporary) == seen[-1]["left"] != []
    rehearsal = appkit.rehearse(app)
    assert len({name.partition("/")[0] for name in copies(temporary)}) == 1  # the rows of this very one
    del rehearsal
    gc.collect()
    assert copies(temporary) == []
