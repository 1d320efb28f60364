"""Migrate: each trap of flask_migrate.Migrate is shown to be one, and then cured."""
import io
import logging
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import flask_migrate
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event

from appkit.errors import MigrationError, OrphanedRowsError
from appkit.migrate import Migrate

# Flask-Migrate's own env.py asks Flask-SQLAlchemy the old way first.
pytestmark = pytest.mark.filterwarnings("ignore:'get_engine' is deprecated:DeprecationWarning")

BOTH = pytest.mark.parametrize("kind, cured", [(Migrate, True), (flask_migrate.Migrate, False)])
REVISION = '''
import sqlalchemy as sa
from alembic import op
revision = {name!r}
down_revision = {after!r}
def upgrade():
    {up}
def downgrade():
    {down}
'''
TABLES = """op.execute("CREATE TABLE author (id INTEGER PRIMARY KEY, name VARCHAR(20))")
    op.execute("CREATE TABLE book (id INTEGER PRIMARY KEY, a INTEGER REFERENCES author(id) ON DELETE CASCADE)")
    op.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, a INTEGER REFERENCES author(id) ON DELETE SET NULL)")"""
ROWS = """INSERT INTO author VALUES (1, 'x'), (2, 'y'); INSERT INTO book VALUES (10, 1), (11, 1), (12, 2);
          INSERT INTO note VALUES (20, 1), (21, 2);"""
RECREATE = """with op.batch_alter_table("author") as batch:
        batch.alter_column("name", existing_type=sa.String(20), nullable={})"""
SEVERAL = f"""op.execute("CREATE TABLE extra (id INTEGER PRIMARY KEY)")
    op.execute("UPDATE author SET name = name || '!'")
    op.execute("INSERT INTO extra VALUES (1)")
    {RECREATE.format(False)}
    op.execute("ALTER TABLE extra ADD COLUMN more TEXT")"""
OWN_ENGINE_ENV = '''
from logging.config import fileConfig
from alembic import context
from flask import current_app
from sqlalchemy import engine_from_config, pool
config = context.config
fileConfig(config.config_file_name)
config.set_main_option("sqlalchemy.url", current_app.config["SQLALCHEMY_DATABASE_URI"].replace("%", "%%"))
target_metadata = current_app.extensions["migrate"].db.metadata
def hook(migration, revision, directives):
    if getattr(config.cmd_opts, "autogenerate", False) and directives[0].upgrade_ops.is_empty():
        directives[:] = []
engine = engine_from_config(config.get_section(config.config_ini_section), prefix="sqlalchemy.",
                            poolclass=pool.NullPool)
connection = engine.connect()
context.configure(connection=connection, target_metadata=target_metadata, process_revision_directives=hook,
                  **current_app.extensions["migrate"].configure_args)
try:
    with context.begin_transaction():
        context.run_migrations()
finally:
    connection.close()
'''


class Project:
    """An app with a history in a folder of its own, and its database."""

    def __init__(self, folder, kind=Migrate, *, foreign_keys=True, config=None, multidb=False, **options):
        self.folder, self.place = folder / "history", folder / "app.db"
        self.app = Flask("project", root_path=str(folder))
        self.app.config.update({"SQLALCHEMY_DATABASE_URI": f"sqlite:///{self.place}", **(config or {})})
        self.db = SQLAlchemy(self.app)
        self.context = self.app.app_context()
        self.context.push()
        for engine in self.db.engines.values() if foreign_keys else ():
            event.listen(engine, "connect", enforce)
        self.migrate = kind(self.app, self.db, directory=self.folder, **options)
        flask_migrate.init(multidb=multidb)

    def close(self):
        self.db.session.remove()
        for engine in self.db.engines.values():
            engine.dispose()
        self.context.pop()

    def write(self, name, up="pass", *, after=None, down="pass"):
        text = REVISION.format(name=name, after=after, up=up, down=down)
        (self.folder / "versions" / f"{name}.py").write_text(text)

    def begin(self, script=ROWS):
        """Bring the database to revision 1, with rows."""
        self.write("1", TABLES)
        flask_migrate.upgrade()
        with closing(sqlite3.connect(self.place)) as connection:
            connection.executescript(script)

    def read(self, query):
        with closing(sqlite3.connect(self.place)) as connection:
            return connection.execute(query).fetchall()

    def dump(self):
        with closing(sqlite3.connect(self.place)) as connection:
            return list(connection.iterdump())

    def files(self):
        return sorted(path.name for path in (self.folder / "versions").glob("*.py"))

    def model(self, name="author", *columns):
        key = sa.Column("id", sa.Integer, primary_key=True)
        return sa.Table(name, self.db.metadata, key, *columns, extend_existing=True)

    def replace_in_env(self, old, new):
        path = self.folder / "env.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))


def enforce(connection, _record=None):
    autocommit = getattr(connection, "autocommit", None)
    if autocommit is False:
        connection.autocommit = True
    connection.execute("PRAGMA foreign_keys=ON").close()
    if autocommit is False:
        connection.autocommit = False


def pragma(project):
    with project.db.engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        return connection.exec_driver_sql("PRAGMA foreign_keys").scalar(), raw.isolation_level


def logger_states():
    loggers = {name: logger for name, logger in logging.root.manager.loggerDict.items()
               if isinstance(logger, logging.Logger)}
    return {name: (logger.level, bool(logger.disabled), bool(logger.propagate), list(logger.handlers))
            for name, logger in {"": logging.root, **loggers}.items()}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Write no bytecode, since revisions are rewritten within a second; and undo what stock leaves in the loggers."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = logger_states()
    yield
    for name, (level, disabled, propagate, handlers) in before.items():
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.disabled, logger.propagate, logger.handlers = disabled, propagate, handlers


@pytest.fixture
def make(tmp_path):
    made = []

    def make(*args, **options):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Project(folder, *args, **options))
        return made[-1]

    yield make
    for project in reversed(made):
        project.close()


# Foreign keys

@BOTH
def test_batch_recreate_keeps_the_children(make, kind, cured):
    project = make(kind)
    project.begin()
    project.write("2", RECREATE.format(False), after="1")
    flask_migrate.upgrade()
    kept = (project.read("SELECT count(*) FROM book"), project.read("SELECT count(a) FROM note")) == ([(3,)], [(2,)])
    assert kept is cured
    assert pragma(project) == (1, "")


def test_two_recreates_in_one_upgrade_and_back_keep_the_children(make):
    project = make()
    project.begin()
    before = project.dump()
    project.write("2", RECREATE.format(False), after="1", down=RECREATE.format(True))
    project.write("3", "pass", after="2")
    project.write("4", RECREATE.format(True), after="3", down=RECREATE.format(False))
    flask_migrate.upgrade()
    assert project.read("SELECT version_num FROM alembic_version") == [("4",)]
    flask_migrate.downgrade(revision="1")
    rows = [line for line in before if line.startswith("INSERT")]
    assert [line for line in project.dump() if line.startswith("INSERT")] == rows
    assert pragma(project) == (1, "")


def test_orphans_are_refused_and_named(make):
    project = make()
    project.begin()
    project.write("2", 'op.execute("DELETE FROM author WHERE id = 1")', after="1")
    before = project.dump()
    with pytest.raises(OrphanedRowsError, match=r"1 row of note \(id=20\) by a to author") as refused:
        flask_migrate.upgrade.__wrapped__()
    assert "2 rows of book (id=10; id=11) by a to author" in str(refused.value)
    assert project.dump() == before
    with pytest.raises(SystemExit):
        flask_migrate.upgrade()
    assert project.dump() == before and pragma(project) == (1, "")


def test_only_three_orphans_are_named(make):
    project = make()
    project.begin(ROWS + "INSERT INTO book SELECT id + 100, 2 FROM book; INSERT INTO book SELECT id + 50, 2 FROM book")
    project.write("2", 'op.execute("DELETE FROM author WHERE id = 2")', after="1")
    with pytest.raises(OrphanedRowsError, match=r"10 rows of book \(id=12; id=60; id=61; …\)"):
        flask_migrate.upgrade.__wrapped__()


def test_children_deleted_with_their_parent_are_no_orphans(make):
    project = make()
    project.begin()
    project.write("2", 'op.execute("DELETE FROM author WHERE id = 2")\n    op.execute("DELETE FROM book WHERE a = 2")\n'
                       '    op.execute("UPDATE note SET a = NULL WHERE a = 2")', after="1")
    flask_migrate.upgrade()
    assert project.read("SELECT id FROM book") == [(10,), (11,)]


@pytest.mark.parametrize("up", [
    RECREATE.format(False),
    'op.rename_table("book", "volume")',
    'op.alter_column("book", "a", new_column_name="author_id")' if sqlite3.sqlite_version_info < (3, 25) else
    'op.execute("ALTER TABLE book RENAME COLUMN a TO author_id")',
    'op.rename_table("author", "writer")',
    """with op.batch_alter_table("book") as batch:
        batch.alter_column("a", existing_type=sa.Integer(), type_=sa.String(9))"""])
def test_orphans_that_were_there_before_are_not_blamed(make, up):
    project = make()
    project.begin(ROWS + "INSERT INTO book VALUES (13, 99), (14, 99)")
    project.write("2", up, after="1")
    flask_migrate.upgrade()
    assert project.read("SELECT version_num FROM alembic_version") == [("2",)]


def test_a_foreign_key_added_over_rows_that_break_it_is_refused(make):
    project = make()
    project.begin("CREATE TABLE tag (name TEXT PRIMARY KEY, a INT) WITHOUT ROWID; INSERT INTO tag VALUES ('it''s', 7)")
    project.write("2", """with op.batch_alter_table("tag") as batch:
        batch.create_foreign_key("fk", "author", ["a"], ["id"])""", after="1")
    before = project.dump()
    with pytest.raises(OrphanedRowsError, match=r"1 row of tag \(name='it''s'\) by a to author"):
        flask_migrate.upgrade.__wrapped__()
    assert project.dump() == before


def test_a_dropped_parent_orphans_its_children(make):
    project = make()
    project.begin()
    project.write("2", 'op.drop_table("author")', after="1")
    with pytest.raises(OrphanedRowsError, match="3 rows of book"):
        flask_migrate.upgrade.__wrapped__()
    assert project.read("SELECT count(*) FROM author") == [(2,)]


def test_an_app_without_foreign_keys_is_not_checked(make):
    project = make(foreign_keys=False)
    project.begin()
    project.write("2", 'op.execute("DELETE FROM author")', after="1")
    flask_migrate.upgrade()
    assert project.read("SELECT count(*) FROM book") == [(3,)]
    assert pragma(project) == (0, "")


def test_foreign_keys_that_point_at_no_key_do_not_stop_a_migration(make):
    project = make()
    project.begin("CREATE TABLE odd (x, y REFERENCES author(name)); INSERT INTO odd VALUES (1, 'nobody')")
    project.write("2", RECREATE.format(False), after="1")
    flask_migrate.upgrade()
    assert project.read("SELECT version_num FROM alembic_version") == [("2",)]


def test_orphans_of_a_second_revision_are_refused_too(make):
    project = make()
    project.begin(ROWS + "INSERT INTO book VALUES (13, 99)")
    project.write("2", 'op.execute("DELETE FROM book WHERE id = 13")', after="1")
    project.write("3", 'op.execute("INSERT INTO book VALUES (14, 99)")', after="2")
    with pytest.raises(OrphanedRowsError, match=r"1 row of book \(id=14\)"):
        flask_migrate.upgrade.__wrapped__()
    assert project.read("SELECT version_num FROM alembic_version") == [("2",)]


def test_orphans_that_another_connection_made_meanwhile_are_not_blamed(make):
    project = make()
    project.begin()
    project.write("2", 'op.execute("DELETE FROM book WHERE id = 10")', after="1")
    project.write("3", f"""import sqlite3
    other = sqlite3.connect({str(project.place)!r})
    other.execute("INSERT INTO book VALUES (13, 99)")
    other.commit()
    other.close()
    op.execute("DELETE FROM book WHERE id = 11")""", after="2")
    flask_migrate.upgrade()
    assert project.read("SELECT id FROM book") == [(12,), (13,)]


def test_a_history_of_new_tables_is_not_checked_at_every_revision(make):
    project = make()
    project.begin()
    for number in range(2, 12):
        table = f'op.create_table("t{number}", sa.Column("id", sa.Integer, sa.ForeignKey("author.id"), index=True))'
        project.write(str(number), table, after=str(number - 1))
    checks = []
    event.listen(project.db.engine, "connect", lambda raw, _: raw.set_trace_callback(checks.append))
    project.db.engine.dispose()
    flask_migrate.upgrade()
    assert [text for text in checks if "foreign_key_check" in text] == []


def test_values_refer_as_the_parents_type_says(make):
    project = make()
    project.begin("CREATE TABLE code (c TEXT PRIMARY KEY); CREATE TABLE use (id INTEGER PRIMARY KEY, c INT "
                  "REFERENCES code); INSERT INTO code VALUES ('05'), ('6')")
    project.write("2", 'op.execute("INSERT INTO use VALUES (1, 5), (2, 6)")', after="1")
    with pytest.raises(OrphanedRowsError, match=r"1 row of use \(id=1\) by c to code"):
        flask_migrate.upgrade.__wrapped__()


def test_hostile_names_and_values_are_named_as_they_are(make):
    project = make()
    project.begin("""
        CREATE TABLE "a, ""b%s:c" ("from" TEXT, rowid TEXT, "ü, <i>" BLOB, PRIMARY KEY ("from", "ü, <i>"));
        CREATE TABLE [select] (rowid TEXT, "x, ""y" TEXT, "%" BLOB,
            FOREIGN KEY ("x, ""y", "%") REFERENCES "a, ""b%s:c");
        INSERT INTO "a, ""b%s:c" VALUES ('k', '', x'ff00'), (CAST(x'ff' AS TEXT), '', x'01');
        INSERT INTO [select] VALUES ('r', 'k', x'ff00'), ('s', CAST(x'ff' AS TEXT), x'01'), ('t', NULL, x'01')""")
    project.write("2", """op.get_bind().exec_driver_sql('DELETE FROM "a, ""b%s:c"')""", after="1")
    with pytest.raises(OrphanedRowsError) as refused:
        flask_migrate.upgrade.__wrapped__()
    told = """2 rows of select (x, "y='k', %=X'FF00'; x, "y='\ufffd', %=X'01') by x, "y, % to a, "b%s:c"""
    assert told in str(refused.value)
    assert project.read('SELECT count(*) FROM "a, ""b%s:c"') == [(2,)]


# Atomicity

@BOTH
def test_a_failure_in_the_middle_leaves_everything_as_it_was(make, kind, cured):
    project = make(kind)
    project.begin()
    before = project.dump()
    project.write("2", SEVERAL + '\n    op.execute("no SQL at all")', after="1")
    with pytest.raises(sa.exc.OperationalError):
        flask_migrate.upgrade()
    assert (project.dump() == before) is cured
    assert pragma(project) == (1, "")


def test_a_revision_that_passed_stays_when_the_next_one_fails(make):
    project = make()
    project.begin()
    project.write("2", SEVERAL, after="1")
    project.write("3", 'op.execute("DROP TABLE extra")\n    raise ValueError("no")', after="2")
    with pytest.raises(ValueError):
        flask_migrate.upgrade()
    assert project.read("SELECT version_num, id, more FROM alembic_version, extra") == [("2", 1, None)]


def die_at(project, number):
    """Upgrade in a process that is killed before its nth statement; tell whether it was."""
    project.db.engine.dispose()
    child = os.fork()
    if child == 0:
        left = iter(range(number, 0, -1))
        event.listen(project.db.engine, "before_cursor_execute",
                     lambda *_: next(left) == 1 and os.kill(os.getpid(), signal.SIGKILL))
        try:
            flask_migrate.upgrade()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@BOTH
def test_death_before_any_statement_leaves_everything_as_it_was(make, kind, cured):
    project = make(kind)
    project.begin()
    project.write("2", SEVERAL, after="1")
    before, survived, number = project.dump(), [], 1
    source = project.place.read_bytes()
    while die_at(project, number):
        survived.append(project.dump() == before)
        Path(f"{project.place}-journal").unlink(missing_ok=True)
        project.place.write_bytes(source)
        number += 1
    assert number > 10 and all(survived) is cured


def test_an_upgrade_that_was_killed_can_be_tried_again(make):
    project = make()
    project.begin()
    project.write("2", SEVERAL, after="1")
    assert all(die_at(project, number) for number in (3, 6, 9, 12))
    flask_migrate.upgrade()
    assert project.read("SELECT name FROM author") == [("x!",), ("y!",)]
    assert project.read("SELECT version_num FROM alembic_version") == [("2",)]


def test_a_downgrade_that_fails_leaves_everything_as_it_was(make):
    project = make()
    project.begin()
    project.write("2", "pass", after="1", down=SEVERAL + '\n    op.execute("no SQL at all")')
    flask_migrate.upgrade()
    before = project.dump()
    with pytest.raises(sa.exc.OperationalError):
        flask_migrate.downgrade()
    assert project.dump() == before


def test_hostile_url_and_table_names_are_atomic_too(make, tmp_path):
    folder = tmp_path / "a b%c'é"
    folder.mkdir()
    project = make(config={"SQLALCHEMY_DATABASE_URI": sa.URL.create("sqlite", database=str(folder / 'x"%.db'))})
    project.place = folder / 'x"%.db'
    project.write("1", """op.create_table('or"der %(x)s', sa.Column("a:b %", sa.Integer, primary_key=True))
    op.execute("no SQL at all")""")
    with pytest.raises(sa.exc.OperationalError):
        flask_migrate.upgrade()
    assert project.read("SELECT * FROM sqlite_master") == []


@pytest.mark.parametrize("failing", ["no SQL at all", "DELETE FROM author"])
@pytest.mark.parametrize("options", [
    {"isolation_level": "AUTOCOMMIT"}, {"isolation_level": "SERIALIZABLE"}, {"pool_reset_on_return": None},
    {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}])
def test_an_engine_with_ways_of_its_own_is_atomic_too(make, options, failing):
    project = make(config={"SQLALCHEMY_ENGINE_OPTIONS": options})
    project.begin()
    before, ways = project.dump(), pragma(project)
    project.write("2", SEVERAL + f'\n    op.execute("{failing}")', after="1")
    with pytest.raises((sa.exc.OperationalError, OrphanedRowsError)):
        flask_migrate.upgrade.__wrapped__()
    assert project.dump() == before and pragma(project) == ways


def begin_by_themselves(engine):
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))


def test_an_app_that_emits_its_own_begin_is_served(make):
    project = make()
    begin_by_themselves(project.db.engine)
    project.begin()
    project.write("2", SEVERAL, after="1")
    project.write("3", 'op.execute("DROP TABLE extra")\n    raise ValueError("no")', after="2")
    with pytest.raises(ValueError):
        flask_migrate.upgrade()
    assert project.read("SELECT count(*) FROM book, extra") == [(3,)]
    assert pragma(project) == (1, None)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has no autocommit before Python 3.12")
@pytest.mark.parametrize("autocommit", [False, True])
def test_the_drivers_autocommit_mode_is_served(make, autocommit):
    project = make(config={"SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": {"autocommit": autocommit}}})
    project.begin()
    project.write("2", SEVERAL, after="1")
    project.write("3", 'op.execute("DROP TABLE extra")\n    raise ValueError("no")', after="2")
    with pytest.raises(ValueError):
        flask_migrate.upgrade()
    assert project.read("SELECT count(*) FROM book, extra") == [(3,)]
    with project.db.engine.connect() as connection:
        assert connection.connection.dbapi_connection.autocommit is autocommit
    assert pragma(project)[0] == 1


def test_an_autocommit_block_can_vacuum(make):
    project = make()
    project.begin()
    project.write("2", """op.execute("CREATE TABLE extra (id INTEGER PRIMARY KEY)")
    with op.get_context().autocommit_block():
        op.execute("VACUUM")
    op.execute("DROP TABLE extra")
    raise ValueError("no")""", after="1")
    with pytest.raises(ValueError):
        flask_migrate.upgrade()
    assert project.read("SELECT count(*) FROM extra") == [(0,)]
    assert pragma(project) == (1, "")


def test_an_autocommit_block_that_orphans_is_told(make):
    project = make()
    project.begin()
    project.write("2", """with op.get_context().autocommit_block():
        op.execute("DELETE FROM author")""", after="1")
    with pytest.raises(OrphanedRowsError, match="An autocommit_block has committed them"):
        flask_migrate.upgrade.__wrapped__()


def test_a_bare_vacuum_runs_as_before(make):
    project = make()
    project.begin()
    project.write("2", 'op.execute("VACUUM")', after="1")
    project.write("3", 'op.execute("PRAGMA foreign_keys=ON")\n    ' + RECREATE.format(False), after="2")
    flask_migrate.upgrade()
    assert project.read("SELECT count(*) FROM book") == [(3,)]


@BOTH
def test_a_database_in_memory_is_served(make, kind, cured):
    project = make(kind, config={"SQLALCHEMY_DATABASE_URI": "sqlite://"})
    project.write("1", TABLES)
    project.write("2", SEVERAL, after="1")
    flask_migrate.upgrade(revision="1")
    session = project.db.session
    session.connection().connection.dbapi_connection.executescript(ROWS)
    session.execute(sa.text("INSERT INTO author VALUES (3, 'open')"))  # an open transaction, on the same connection
    flask_migrate.upgrade()
    assert (session.scalar(sa.text("SELECT count(*) FROM book")) == 3) is cured
    assert session.scalar(sa.text("SELECT count(*) FROM author")) == 3
    assert session.scalar(sa.text("PRAGMA foreign_keys")) == 1


def test_commands_that_only_look_take_no_lock_and_make_no_table(make):
    project = make()
    project.model()
    flask_migrate.migrate(rev_id="1")
    flask_migrate.current()
    assert project.read("SELECT * FROM sqlite_master") == []
    flask_migrate.upgrade()
    with closing(sqlite3.connect(project.place)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        flask_migrate.current()
        flask_migrate.check()
        flask_migrate.upgrade()


# env.py of any kind

def test_an_env_with_its_own_engine_is_served(make):
    project = make(foreign_keys=False)
    for engine in (project.db.engine,):
        event.listen(engine, "connect", enforce)  # on the app's engine only, as its author may think enough
    (project.folder / "env.py").write_text(OWN_ENGINE_ENV)
    project.begin()
    before = project.dump()
    project.write("2", SEVERAL + '\n    op.execute("DELETE FROM author WHERE id = 1")', after="1")
    with pytest.raises(OrphanedRowsError, match="2 rows of book"):
        flask_migrate.upgrade.__wrapped__()
    assert project.dump() == before


def test_an_env_that_passes_its_own_hook_writes_no_empty_revision(make):
    project = make()
    (project.folder / "env.py").write_text(OWN_ENGINE_ENV)
    project.model()
    flask_migrate.migrate(rev_id="1")
    flask_migrate.upgrade()
    flask_migrate.migrate(rev_id="2")
    flask_migrate.check()
    assert project.files() == ["1_.py"]


def test_an_env_that_passes_the_same_option_is_served(make):
    project = make()
    project.model("author", sa.Column("name", sa.Text))
    flask_migrate.migrate(rev_id="1")
    project.replace_in_env("**conf_args", "compare_server_default=False, **conf_args")
    flask_migrate.upgrade()
    project.model("author", sa.Column("name", sa.Text, server_default="x"))
    flask_migrate.migrate(rev_id="2")
    assert project.files() == ["1_.py"]


def test_several_databases_are_served(make, tmp_path):
    project = make(multidb=True, config={"SQLALCHEMY_BINDS": {"second": f"sqlite:///{tmp_path / 'second.db'}"}})
    for engine in project.db.engines.values():
        begin_by_themselves(engine)
    project.model()
    sa.Table("other", project.db.metadatas["second"], sa.Column("id", sa.Integer, primary_key=True))
    flask_migrate.migrate(rev_id="1")
    flask_migrate.upgrade()
    flask_migrate.migrate(rev_id="2")
    assert project.files() == ["1_.py"]
    project.place = tmp_path / "second.db"
    assert project.read("SELECT name FROM sqlite_master WHERE name = 'other'") == [("other",)]


def test_a_recreate_keeps_the_children_of_several_databases(make, tmp_path):
    project = make(multidb=True, config={"SQLALCHEMY_BINDS": {"second": f"sqlite:///{tmp_path / 'second.db'}"}})
    for engine in project.db.engines.values():
        begin_by_themselves(engine)
    named = ("def upgrade():", "def upgrade(engine_name):")
    for name, after, up in (("1", None, TABLES), ("2", "1", RECREATE.format(False))):
        project.write(name, up, after=after)
        path = project.folder / "versions" / f"{name}.py"
        path.write_text(path.read_text().replace(*named))
        flask_migrate.upgrade(revision=name)
        for engine in project.db.engines.values() if name == "1" else ():
            with engine.connect() as connection:
                connection.connection.dbapi_connection.executescript(ROWS)
    for engine in project.db.engines.values():
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM book")) == 3


# Autogenerate

@BOTH
def test_migrate_then_check_works(make, kind, cured):
    project = make(kind)
    project.model()
    flask_migrate.migrate(rev_id="1")
    flask_migrate.upgrade()
    flask_migrate.migrate(rev_id="2")
    if cured:
        flask_migrate.check()
    else:
        pytest.raises(IndexError, flask_migrate.check)
    assert project.files() == ["1_.py"]


@BOTH
def test_upgrade_then_migrate_writes_no_empty_revision(make, kind, cured):
    project = make(kind)
    project.write("1", 'op.create_table("author", sa.Column("id", sa.Integer, primary_key=True))')
    project.model()
    flask_migrate.upgrade()
    flask_migrate.migrate(rev_id="2")
    assert (project.files() == ["1.py"]) is cured


def test_a_command_leaves_the_options_as_they_were_given(make):
    project = make(render_as_batch=False)
    given = dict(project.app.extensions["migrate"].configure_args)
    project.model()
    flask_migrate.migrate(rev_id="1")
    left = project.app.extensions["migrate"].configure_args
    assert {name: left[name] for name in given} == given
    assert set(left) - set(given) <= {"compare_server_default"}


@BOTH
def test_a_changed_server_default_is_seen(make, kind, cured):
    project = make(kind)
    project.model("author", sa.Column("name", sa.Text, server_default="x"))
    flask_migrate.migrate(rev_id="1")
    flask_migrate.upgrade()
    project.model("author", sa.Column("name", sa.Text, server_default="y"))
    flask_migrate.migrate(rev_id="2")
    assert ("2_.py" in project.files()) is cured


def test_the_users_choice_of_server_defaults_stays(make):
    project = make(compare_server_default=False)
    project.migrate.get_config()
    assert project.app.extensions["migrate"].configure_args["compare_server_default"] is False


def test_the_users_hook_is_called_and_empty_revisions_are_still_left_out(make):
    seen = []
    project = make(process_revision_directives=lambda context, revision, directives: seen.append(len(directives)))
    project.model()
    flask_migrate.migrate(rev_id="1")
    flask_migrate.upgrade()
    flask_migrate.migrate(rev_id="2")
    flask_migrate.check()
    assert project.files() == ["1_.py"] and seen == [1, 1, 1]


def test_a_users_hook_that_always_clears_does_not_break_check(make):
    def clear(context, revision, directives):
        if directives[0].upgrade_ops.is_empty():
            directives[:] = []

    project = make(process_revision_directives=clear)
    project.model()
    flask_migrate.migrate(rev_id="1")
    flask_migrate.upgrade()
    flask_migrate.check()


def test_init_app_after_construction_is_the_same(make, tmp_path):
    project = make()
    app = Flask("other")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'other.db'}"
    project.db.init_app(app)
    migrate = Migrate(db=project.db)
    migrate.init_app(app, directory=project.folder, compare_type=False, include_schemas=True)
    extension = app.extensions["migrate"]
    assert (extension.migrate, extension.db, extension.directory) == (migrate, project.db, str(project.folder))
    assert extension.metadata is project.db.metadata
    assert extension.configure_args == {"compare_type": False, "render_as_batch": True, "include_schemas": True}


# The models that nobody imported

def test_no_model_and_no_table_says_what_to_import(make, capsys):
    project = make()
    for _ in range(2):
        flask_migrate.migrate(rev_id="1")
        told = capsys.readouterr().err
        assert "WARNI [appkit.migrate] No model is known" in told and "`import models`" in told
    assert project.files() == []


def test_the_import_is_named_with_its_package(make, tmp_path, capsys):
    project = make()
    Path(project.app.root_path, "__init__.py").touch()
    flask_migrate.migrate()
    assert "`import project.models`" in capsys.readouterr().err


@pytest.mark.parametrize("models, reason", [([], "no model is known"), (["strange"], "the models know only strange")])
def test_dropping_every_table_is_refused(make, caplog, models, reason):
    project = make()
    project.begin()
    for name in models:
        project.model(name)
    with pytest.raises(SystemExit):
        flask_migrate.migrate(rev_id="2")
    with pytest.raises(MigrationError, match=r"drop every table that is there \(author, book, note\)") as refused:
        flask_migrate.migrate.__wrapped__(rev_id="2")
    assert reason in str(refused.value) and "`flask db revision`" in str(refused.value)
    assert caplog.messages == [f"Error: {refused.value}"]
    assert project.files() == ["1.py"]


def test_check_still_tells_what_would_be_dropped(make):
    project = make()
    project.begin()
    with pytest.raises(SystemExit) as stop:
        flask_migrate.check()
    assert "remove_table" in str(stop.value.__context__)


def test_dropping_some_tables_is_written_and_warned_of(make, capsys):
    project = make()
    project.begin()
    project.model("author", sa.Column("name", sa.String(20)))
    flask_migrate.migrate(rev_id="2")
    assert "tables that no model knows: book (3 rows), note (2 rows)" in capsys.readouterr().err
    assert project.files() == ["1.py", "2_.py"]


def test_tables_left_out_by_the_user_are_no_matter(make, capsys):
    project = make(include_object=lambda thing, name, kind, reflected, other: not (kind == "table" and reflected))
    project.begin()
    project.model("extra")
    flask_migrate.migrate(rev_id="2")
    assert "no model knows" not in capsys.readouterr().err
    assert project.files() == ["1.py", "2_.py"]


# Loggers

COMMANDS = {
    "migrate": flask_migrate.migrate, "upgrade": flask_migrate.upgrade, "current": flask_migrate.current,
    "offline": lambda: flask_migrate.upgrade(sql=True), "history": flask_migrate.history,
    "failing": lambda: pytest.raises(SystemExit, flask_migrate.upgrade, revision="unknown"),
    "stamp": flask_migrate.stamp, "check": flask_migrate.check}


@pytest.mark.parametrize("name", COMMANDS)
def test_loggers_are_as_they_were_after(make, name):
    project = make()
    project.model()
    flask_migrate.migrate(rev_id="1")
    if name in ("check", "migrate"):
        flask_migrate.upgrade()
    mine = logging.getLogger("mine.own")
    mine.setLevel(logging.DEBUG)
    before = logger_states()
    COMMANDS[name]()
    after = logger_states()
    assert {key: after[key] for key in before} == before
    assert all(state[:3] == (0, False, True) for key, state in after.items() if key not in before)


def test_stock_disables_loggers(make):
    project = make(flask_migrate.Migrate)
    project.write("1")
    mine = logging.getLogger("mine.own")
    flask_migrate.upgrade()
    assert mine.disabled


def test_loggers_are_as_they_were_when_the_database_cannot_be_opened(make, tmp_path):
    project = make(config={"SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path / 'none' / 'x.db'}"})
    project.write("1")
    before = logger_states()
    with pytest.raises(sa.exc.OperationalError):
        flask_migrate.upgrade()
    assert {key: state for key, state in logger_states().items() if key in before} == before


def test_a_logger_that_only_alembic_ini_knows_is_left_untouched(make):
    project = make()
    project.write("1")
    path = project.folder / "alembic.ini"
    text = path.read_text().replace("keys = root,", "keys = root,fresh,", 1)
    path.write_text(text + "\n[logger_fresh]\nlevel = ERROR\nhandlers = console\nqualname = fresh.logger\n")
    flask_migrate.upgrade()
    fresh = logging.getLogger("fresh.logger")
    assert (fresh.level, fresh.handlers) == (logging.NOTSET, [])


def test_handlers_go_on_writing(make, tmp_path):
    project = make()
    project.write("1")
    mine = logging.getLogger("mine.own")
    handlers = [logging.FileHandler(tmp_path / "log", mode="w"), logging.StreamHandler(io.StringIO())]
    for handler in handlers:
        mine.addHandler(handler)
    mine.error("before")
    flask_migrate.upgrade()
    mine.error("after")
    for handler in handlers:
        mine.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text() == handlers[1].stream.getvalue() == "before\nafter\n"


def test_progress_is_on_stderr(make, capsys):
    project = make()
    project.write("1")
    flask_migrate.upgrade()
    assert "INFO  [alembic.runtime.migration] Running upgrade  -> 1" in capsys.readouterr().err


def test_an_error_is_not_silent_when_no_logger_is_set_up(make, capsys):
    project = make()
    project.write("1")
    project.write("2")
    logging.root.handlers = []
    with pytest.raises(SystemExit):
        flask_migrate.upgrade()
    assert "Error: Multiple head revisions" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["upgrade"], ["upgrade", "--sql"], ["current"], ["migrate"], ["heads"]])
@pytest.mark.parametrize("heads", [1, 2])
def test_the_command_line_prints_what_stock_prints(make, command, heads):
    printed = []
    for kind in (flask_migrate.Migrate, Migrate):
        project = make(kind)
        project.model()
        for number in range(heads):
            project.write(str(number), 'op.create_table("author", sa.Column("id", sa.Integer, primary_key=True))')
        before = logger_states()
        printed.append(project.app.test_cli_runner().invoke(args=["db", *command]))
        project.close()
        project.context.push()
        after = logger_states()
    assert printed[0].output == printed[1].output and printed[0].exit_code == printed[1].exit_code
    assert {key: after[key] for key in before} == before
