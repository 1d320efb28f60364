"""The scratch copy: private, silent, the same every time."""
import logging
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import appkit
from appkit import AppkitError, MigrationError, demo, list_tables, read_table

# Flask-Migrate's env.py first tries the old name of Flask-SQLAlchemy's engine.
pytestmark = pytest.mark.filterwarnings("ignore:'get_engine' is deprecated:DeprecationWarning")

ROOT = Path(__file__).resolve().parent.parent


def test_two_demos_hold_the_same_rows():
    for name in ("user", "post"):
        first = read_table(demo(150), name)
        assert len(first) == 150
        pd.testing.assert_frame_equal(first, read_table(demo(150), name))


def test_fewer_rows_fit_every_revision_alike():
    at_head = read_table(demo(40), "post")
    earlier = read_table(demo(40, revision="0002"), "post")
    pd.testing.assert_frame_equal(at_head.drop(columns="created_at"), earlier)


def test_the_rows_are_varied():
    app = demo(100)
    posts, users = read_table(app, "post"), read_table(app, "user")
    assert 0 < posts["body"].isna().sum() < 50 and (posts["body"] == "").any()
    assert users["username"].str.contains("'").any() and not all(map(str.isascii, users["username"]))
    assert posts["author_id"].nunique() < 60 and posts["author_id"].value_counts().max() > 2
    assert posts["created_at"].is_unique and posts["title"].str.len().max() <= 80


@pytest.mark.parametrize("revision, tables", [
    ("base", []), ("0001", ["alembic_version", "user"]), ("0002", ["alembic_version", "post", "user"]),
])
def test_it_stands_at_the_revision_asked_for(revision, tables):
    app = demo(7, revision=revision)
    listed = list_tables(app).set_index("table")["rows"]
    assert listed.index.tolist() == tables
    assert all(listed[name] == 7 for name in tables if name != "alembic_version")


def test_no_rows_is_a_number_too():
    assert list_tables(demo(0)).set_index("table")["rows"].to_dict() == {"alembic_version": 1, "post": 0, "user": 0}


def test_an_unknown_revision_is_an_error_with_its_reason():
    with pytest.raises(MigrationError, match="'0099'.*Can't locate revision"):
        demo(1, revision="0099")


def test_a_database_with_tables_is_refused():
    app = demo(3)
    with pytest.raises(AppkitError, match="empty databases only; this one has: .*user"):
        demo(5, app.config["SQLALCHEMY_DATABASE_URI"])
    assert len(read_table(app, "user")) == 3


def test_an_empty_database_elsewhere_is_filled(tmp_path):
    app = demo(5, f"sqlite:///{tmp_path / 'mine.db'}")
    assert len(read_table(f"sqlite:///{tmp_path / 'mine.db'}", "post")) == 5
    assert Path(app.extensions["migrate"].directory).parent != tmp_path


def test_the_folder_is_private_and_holds_everything():
    app = demo(1)
    folder = Path(app.extensions["migrate"].directory).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert Path(app.config["SQLALCHEMY_DATABASE_URI"].database).parent == folder
    assert Path(app.instance_path).parent == folder
    assert not list(folder.rglob("*.pyc")) or ROOT not in folder.parents


def test_the_folder_goes_with_the_interpreter():
    code = "import appkit; print(appkit.demo(3).instance_path)"
    ran = subprocess.run([sys.executable, "-W", "error", "-W", "ignore:'get_engine':DeprecationWarning", "-c", code],
                         cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""
    assert ran.stdout.strip().endswith("instance") and not Path(ran.stdout.strip()).parent.exists()


def test_nothing_is_printed_and_no_logger_changes(capfd):
    logger = logging.getLogger("somebody.else")
    before = logging.root.manager.disable, logging.root.level, list(logging.root.handlers), logger.disabled
    demo(3)
    assert capfd.readouterr() == ("", "")
    assert (logging.root.manager.disable, logging.root.level, list(logging.root.handlers), logger.disabled) == before


def test_a_demo_is_healthy():
    app = demo()
    assert app.test_client().get("/health").status_code == 200
    assert appkit.diagnose(app).empty
