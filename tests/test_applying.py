"""apply(): the real database gets what was rehearsed, and only that."""
import stat

import pytest
from apps import make_app, read_sql, run_sql, write_revision

import appkit

SETUP = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t VALUES (1, 'x');"
ADD = "op.add_column('t', sa.Column('b', sa.Integer))"
DROP = "with op.batch_alter_table('t') as batch:\n    batch.drop_column('b')"


@pytest.fixture
def app(tmp_path):
    app = make_app(tmp_path, SETUP, migrate=appkit.Migrate)
    write_revision(app, "1", ADD, DROP)
    return app


def columns(tmp_path) -> list[str]:
    return [row[1] for row in read_sql(tmp_path / "app.db", "PRAGMA table_info(t)")]


def test_apply_upgrades_after_a_backup_that_only_its_owner_reads(app, tmp_path):
    applied = appkit.rehearse(app).apply()
    assert columns(tmp_path) == ["id", "a", "b"]
    assert read_sql(applied.backup, "SELECT * FROM t") == [(1, "x")]
    assert stat.S_IMODE(applied.backup.stat().st_mode) == 0o600
    assert repr(applied) == "Applied(1; as it was: app.db.before-base, beside the database)"


def test_a_second_backup_leaves_the_first(app, tmp_path):
    (tmp_path / "app.db.before-base").write_text("kept")
    assert appkit.rehearse(app).apply().backup.name == "app.db.before-base-2"
    assert (tmp_path / "app.db.before-base").read_text() == "kept"


def test_a_backup_holds_what_is_still_in_the_write_ahead_log(app, tmp_path):
    run_sql(tmp_path / "app.db", "PRAGMA journal_mode = WAL")
    with app.app_context():
        db = app.extensions["sqlalchemy"]
        with db.engine.connect() as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (2, 'y')")
            connection.commit()
            connection.exec_driver_sql("SELECT 1")
            backup = appkit.rehearse(app).apply().backup
    assert len(read_sql(backup, "SELECT * FROM t")) == 2


def test_what_was_not_safe_is_not_applied(app, tmp_path):
    write_revision(app, "1", "op.execute('DELETE FROM t')")
    with pytest.raises(appkit.ApplyError, match="not safe"):
        appkit.rehearse(app).apply()
    assert read_sql(tmp_path / "app.db", "SELECT count(*) FROM t") == [(1,)]


def test_an_edited_revision_file_is_not_applied(app, tmp_path):
    rehearsal = appkit.rehearse(app)
    write_revision(app, "1", ADD.replace("'b'", "'c'"), DROP)
    with pytest.raises(appkit.ApplyError, match="Changed since the rehearsal: 1"):
        rehearsal.apply()
    assert columns(tmp_path) == ["id", "a"]


def test_an_edited_env_is_not_applied(app, tmp_path):
    rehearsal = appkit.rehearse(app)
    env = tmp_path / "migrations" / "env.py"
    env.write_text(env.read_text() + "\n# another line\n")
    with pytest.raises(appkit.ApplyError, match="Changed since the rehearsal: env.py"):
        rehearsal.apply()


def test_a_revision_that_came_later_is_not_applied(app, tmp_path):
    rehearsal = appkit.rehearse(app)
    write_revision(app, "2", "op.drop_table('t')", follows="1")
    with pytest.raises(appkit.ApplyError, match="Pending now: 1, 2; rehearsed: 1"):
        rehearsal.apply()
    assert columns(tmp_path) == ["id", "a"]


def test_a_database_that_moved_on_is_not_upgraded(app, tmp_path):
    rehearsal = appkit.rehearse(app)
    rehearsal.apply()
    with pytest.raises(appkit.ApplyError, match="stands at 1, but the rehearsal began at base"):
        rehearsal.apply()


def test_only_the_target_that_was_rehearsed_is_reached(app, tmp_path):
    write_revision(app, "2", "op.drop_table('t')", "pass", follows="1")
    appkit.rehearse(app, "1").apply()
    assert read_sql(tmp_path / "app.db", "SELECT version_num FROM alembic_version") == [("1",)]


def test_two_heads_are_both_applied(app, tmp_path):
    write_revision(app, "2", "op.create_table('u', sa.Column('id', sa.Integer, primary_key=True))", "op.drop_table('u')")
    appkit.rehearse(app, "heads").apply()
    versions = read_sql(tmp_path / "app.db", "SELECT version_num FROM alembic_version ORDER BY 1")
    assert versions == [("1",), ("2",)]


def test_a_database_in_memory_is_applied_without_backup(tmp_path):
    app = make_app(tmp_path, url="sqlite://", migrate=appkit.Migrate)
    write_revision(app, "1", "op.create_table('t', sa.Column('id', sa.Integer, primary_key=True))", "op.drop_table('t')")
    assert repr(appkit.rehearse(app).apply()) == "Applied(1; no backup: it is in memory)"
    assert "t" in appkit.list_tables(app)["table"].tolist()


def test_nothing_pending_applies_nothing(tmp_path):
    app = make_app(tmp_path, SETUP)
    assert appkit.rehearse(app).apply().backup is None


def test_an_upgrade_that_fails_tells_where_the_backup_is(app, tmp_path):
    rehearsal = appkit.rehearse(app)
    run_sql(tmp_path / "app.db", "ALTER TABLE t ADD COLUMN b INTEGER")  # the rehearsal saw another table
    with pytest.raises(appkit.ApplyError, match=r"duplicate column.*is in .*app\.db\.before-base"):
        rehearsal.apply()
