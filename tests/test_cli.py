"""flask rehearse, as a release runs it: in a process of its own, by its exit status."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from apps import make_app, read_sql, write_revision

SETUP = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t VALUES (1, '<b>x</b>');"
APP = """
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

db = SQLAlchemy()

def create_app():
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///{folder}/app.db"
    db.init_app(app)
    Migrate(app, db, directory="{folder}/migrations")
    return app
"""


@pytest.fixture
def theirs(tmp_path):
    """Somebody's app in a file, with one table; give the app to write revisions for, and a way to run flask."""
    (tmp_path / "theirs.py").write_text(APP.format(folder=tmp_path))
    app = make_app(tmp_path, SETUP)

    def flask(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "flask", "--app", "theirs", *words], cwd=tmp_path, text=True,
                              capture_output=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    return app, flask


def test_safe_is_0_not_safe_is_1_and_could_not_is_2(theirs):
    app, flask = theirs
    write_revision(app, "1", "op.add_column('t', sa.Column('b', sa.Integer))",
                   "with op.batch_alter_table('t') as batch:\n    batch.drop_column('b')")
    safe = flask("rehearse")
    assert safe.returncode == 0 and safe.stdout.startswith("base → 1: safe") and safe.stderr == ""
    write_revision(app, "2", "op.execute('DELETE FROM t')", follows="1")
    unsafe = flask("rehearse")
    assert unsafe.returncode == 1 and "LOSS rows-lost t (revision 2)" in unsafe.stdout
    assert flask("rehearse", "1").returncode == 0
    failed = flask("rehearse", "9")
    assert failed.returncode == 2 and failed.stderr.startswith("Could not rehearse: Cannot rehearse to '9'")
    assert "Traceback" not in failed.stderr


def test_json_holds_the_verdict_and_every_frame(theirs, tmp_path):
    app, flask = theirs
    write_revision(app, "1", "op.execute('DELETE FROM t')")
    told = json.loads(flask("rehearse", "--json", "--no-downgrade").stdout)
    assert told["safe"] is False and told["start"] == "base" and told["revisions"] == ["1"]
    assert told["findings"][0]["finding"] == "rows-lost"
    assert told["ledger"] == [{"revision": "1", "table": "t", "before": 1, "after": 0, "kept": 0, "changed": 0,
                               "lost": 1, "added": 0}]
    assert read_sql(tmp_path / "app.db", "SELECT count(*) FROM t") == [(1,)]


def test_a_broken_history_could_not_be_rehearsed(theirs):
    app, flask = theirs
    write_revision(app, "2", follows="1")
    failed = flask("rehearse")
    assert failed.returncode == 2 and "Traceback" not in failed.stderr


def test_a_crash_is_not_taken_for_a_verdict(theirs):
    app, flask = theirs
    write_revision(app, "1", "pass", head="accepted = 'rows-lost'")
    assert flask("rehearse").returncode == 2 and flask("rehearse", "@").returncode == 2


def test_a_terminal_that_lacks_a_sign_changes_no_verdict(theirs, monkeypatch):
    app, flask = theirs
    write_revision(app, "1")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    assert flask("rehearse").returncode == 0


def test_a_password_in_the_url_is_printed_nowhere(theirs, tmp_path):
    app, flask = theirs
    source = (tmp_path / "theirs.py").read_text()
    (tmp_path / "theirs.py").write_text(source.replace(f"sqlite:///{tmp_path}/app.db", "oracle://me:s3cret%21@h/db"))
    failed = flask("rehearse")
    assert failed.returncode != 0 and "s3cret" not in failed.stdout + failed.stderr


def test_flask_without_a_rehearsal_loads_no_pandas(theirs):
    _, flask = theirs
    code = ("import sys, appkit, appkit.cli; appkit.create_app('sqlite://'); "
            "sys.exit(any(name in sys.modules for name in ('pandas', 'duckdb', 'pyarrow')))")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert "rehearse" in flask("--help").stdout


def test_the_readme_s_way_works_from_the_repository(tmp_path):
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path}/ours.db"}
    done = subprocess.run([sys.executable, "-m", "flask", "--app", "appkit", "rehearse"], cwd=root, text=True,
                          capture_output=True, env=environment)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "base → 0004: safe, nothing found")
    assert not (tmp_path / "ours.db").exists()
