"""A migration that waits for a lock: not for ever, again after a pause, and with the name of who is in the way."""
import threading
import time

import flask_migrate
import pytest
import servers
import sqlalchemy as sa
from apps import write_revision
from sqlalchemy.orm import Session
from test_rehearsal_on_servers import app_at

import appkit

SETUP = ("CREATE TABLE parent (id integer PRIMARY KEY, name varchar(40))", "INSERT INTO parent VALUES (1, 'Ada')")


@pytest.fixture(params=["15", "18", "mariadb"])
def url(request):
    server = servers.mariadb() if request.param == "mariadb" else servers.postgresql(request.param)
    url = servers.new_database(server)
    yield url
    servers.drop_database(url)


@pytest.fixture
def app(url, tmp_path):
    app = app_at(url, tmp_path, *SETUP, migrate=appkit.Migrate, config={"APPKIT_LOCK_TIMEOUT": 1})
    write_revision(app, "1", "op.add_column('parent', sa.Column('born', sa.Date))", "op.drop_column('parent', 'born')")
    return app


@pytest.fixture
def reader(url):
    """A session that has only read, and goes on holding what it read."""
    engine = servers.engine_at(url)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM parent").all()
        yield connection
    engine.dispose()


def upgrade(app, monkeypatch, pauses=()):
    for name in ("postgresql", "mariadb"):
        monkeypatch.setattr(f"appkit.databases.{name}.guard._PAUSES", pauses)
    with app.app_context():
        flask_migrate.upgrade()


def failed(app, monkeypatch, capsys, pauses=()):
    with pytest.raises(SystemExit) as stop:
        upgrade(app, monkeypatch, pauses)
    assert isinstance(stop.value.__context__, appkit.MigrationError)
    return str(stop.value.__context__)


def test_a_connection_of_this_process_is_named_with_what_it_did(app, reader, monkeypatch, capsys):
    began = time.monotonic()
    told = failed(app, monkeypatch, capsys)
    assert time.monotonic() - began < 8
    assert "ALTER TABLE parent ADD COLUMN born" in told and "It is this process: a Connection" in told
    driver = reader.connection.driver_connection
    assert str(driver.info.backend_pid if hasattr(driver, "info") else driver.thread_id()) in told
    reader.rollback()
    upgrade(app, monkeypatch)
    assert "born" in appkit.read_table(app, "parent").columns


def test_an_open_session_is_named_as_one(app, url, monkeypatch, capsys):
    engine = servers.engine_at(url)
    with Session(engine) as session:
        session.execute(sa.text("SELECT * FROM parent")).all()
        assert "It is this process: an open Session" in failed(app, monkeypatch, capsys)
    engine.dispose()


def test_a_lock_that_is_let_go_meanwhile_is_waited_for_again(app, reader, monkeypatch, capsys):
    threading.Timer(1.5, reader.rollback).start()
    upgrade(app, monkeypatch, pauses=(0.5, 0.5, 0.5))
    assert "born" in appkit.read_table(app, "parent").columns
    assert "Trying again in 0.5 s." in capsys.readouterr().err


def test_a_revision_is_begun_again_as_a_whole(app, reader, url, monkeypatch):
    if url.get_backend_name() == "mariadb":
        pytest.skip("DDL commits at once: what was done is not rolled back")
    write_revision(app, "2", "op.execute(\"INSERT INTO counted VALUES (1)\")\n"
                             "op.drop_column('parent', 'name')", follows="1")
    servers.execute(url, "CREATE TABLE counted (n int)")
    threading.Timer(1.5, reader.rollback).start()
    upgrade(app, monkeypatch, pauses=(0.5, 0.5, 0.5))
    assert servers.execute(url, "SELECT * FROM counted") == [(1,)]
    assert appkit.read_table(app, "parent").columns.tolist() == ["id", "born"]


def test_a_lock_timeout_of_the_apps_own_stays(app, url, monkeypatch):
    setting = "lock_wait_timeout" if url.get_backend_name() == "mariadb" else "lock_timeout"
    value = "7" if url.get_backend_name() == "mariadb" else "'7s'"
    write_revision(app, "1", f"op.execute(\"SET SESSION {setting} = {value}\")\n"
                             "op.execute('CREATE TABLE told AS SELECT " +
                   ("@@lock_wait_timeout AS t')" if url.get_backend_name() == "mariadb" else
                    "current_setting(''lock_timeout'') AS t')".replace("''", "\\'\\'").replace("\\'\\'", "\\'")))
    upgrade(app, monkeypatch)
    assert str(servers.execute(url, "SELECT t FROM told")[0][0]) in ("7", "7s")


@pytest.mark.parametrize("each", [False, True], ids=["one transaction", "one per revision"])
def test_through_a_pooler_the_timeout_ends_with_the_transaction(tmp_path, monkeypatch, each):
    url = servers.new_database(servers.postgresql("18"))
    pooled = servers.pooled(url, "transaction")
    app = app_at(pooled, tmp_path, *SETUP, migrate=appkit.Migrate, config={"APPKIT_LOCK_TIMEOUT": 7},
                 transaction_per_migration=each)
    for number in (1, 2):
        write_revision(app, str(number), f"op.execute(\"CREATE TABLE told{number} AS "
                                         "SELECT current_setting('lock_timeout') AS t\")",
                       follows=str(number - 1) if number > 1 else None)
    monkeypatch.setattr("appkit.databases.postgresql.guard.Guard.release", lambda self: None)  # as if it were killed
    upgrade(app, monkeypatch)
    assert [servers.execute(url, f"SELECT t FROM told{number}") for number in (1, 2)] == [[("7s",)], [("7s",)]]
    engine = servers.engine_at(pooled)
    with engine.connect() as one, engine.connect() as other:  # the sessions that the app gets next
        assert {each.exec_driver_sql("SHOW lock_timeout").scalar_one() for each in (one, other)} == {"0"}
    servers.drop_database(url)


def test_with_a_driver_that_is_not_known_the_upgrade_goes_on_and_the_lack_is_told(tmp_path, monkeypatch, capsys):
    url = servers.new_database(servers.postgresql("18"))
    app = app_at(url, tmp_path, *SETUP, migrate=appkit.Migrate)
    write_revision(app, "1", "op.execute(\"CREATE TABLE told AS SELECT current_setting('lock_timeout') AS t\")")
    monkeypatch.setattr("appkit.databases.postgresql.guard.is_connection", lambda connection: False)
    upgrade(app, monkeypatch)
    assert servers.execute(url, "SELECT t FROM told") == [("0",)]
    assert "A lock is waited for as long as the server lets it" in capsys.readouterr().err
    monkeypatch.setattr("appkit.databases.postgresql.servers.is_connection", lambda connection: False)
    with pytest.raises(appkit.RehearsalError, match="does not know the driver 'psycopg'"):
        appkit.rehearse(app)
    servers.drop_database(url)


def test_the_timeout_is_taken_back_with_the_migration(app, url, monkeypatch):
    upgrade(app, monkeypatch)
    asked = "SELECT @@lock_wait_timeout" if url.get_backend_name() == "mariadb" else "SHOW lock_timeout"
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine
        with engine.connect() as connection:
            assert str(connection.exec_driver_sql(asked).scalar_one()) in ("0", "86400")
        engine.dispose()
