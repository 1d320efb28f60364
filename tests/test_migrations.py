"""The history of this repository's app, on rows."""
import flask_migrate
import pandas as pd
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from flask import Flask
from sqlalchemy import text

from appkit import db, demo, list_tables, read_history, read_query, read_table
from appkit.databases import engine_of

# Flask-Migrate's env.py first tries the old name of Flask-SQLAlchemy's engine.
pytestmark = pytest.mark.filterwarnings("ignore:'get_engine' is deprecated:DeprecationWarning")

REVISIONS = ["0001", "0002", "0003", "0004"]


def _go(app: Flask, way: str, revision: str) -> None:
    with app.app_context():
        getattr(flask_migrate, way).__wrapped__(revision=revision)


def _execute(app: Flask, statement: str) -> None:
    with app.app_context():
        db.session.execute(text(statement))
        db.session.commit()
        db.session.remove()


def _schema(app: Flask) -> list[tuple]:
    with engine_of(app).connect() as connection:
        return connection.exec_driver_sql("SELECT type, name, sql FROM sqlite_master ORDER BY name").all()


def _rows(app: Flask) -> dict[str, pd.DataFrame]:
    return {name: read_table(app, name) for name in list_tables(app)["table"] if name != "alembic_version"}


def test_there_is_one_head_and_no_gap():
    history = read_history(demo(0, revision="base"))
    assert history["revision"].tolist() == REVISIONS
    assert history["follows"].tolist() == ["", *REVISIONS[:-1]]
    assert history["head"].tolist() == [False, False, False, True]


def test_the_head_is_what_the_models_say():
    app = demo(5)
    options = {"compare_type": True, "compare_server_default": True}
    with engine_of(app).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), db.metadata) == []


@pytest.mark.parametrize("revision, before", list(zip(REVISIONS, ["base", *REVISIONS])))
def test_each_revision_goes_up_down_and_up_again_on_rows(revision, before):
    app = demo(200, revision=before)
    started = _rows(app)
    _go(app, "upgrade", revision)
    above, schema = _rows(app), _schema(app)
    _go(app, "downgrade", "-1")
    below = _rows(app)
    _go(app, "upgrade", revision)
    assert started.keys() == below.keys()
    for name in started:
        pd.testing.assert_frame_equal(started[name], below[name])
    for name, rows in _rows(app).items():
        pd.testing.assert_frame_equal(above[name], rows)
    assert _schema(app) == schema


def test_the_whole_history_goes_down_to_nothing():
    app = demo(50)
    _go(app, "downgrade", "base")
    assert list_tables(app)["table"].tolist() == ["alembic_version"]
    _go(app, "upgrade", "head")
    assert read_history(app)["applied"].all()


def test_posts_from_before_we_kept_time_get_the_first_moment():
    app = demo(20, revision="0002")
    _go(app, "upgrade", "0003")
    assert set(read_table(app, "post")["created_at"]) == {pd.Timestamp(1970, 1, 1)}
    assert read_query(app, "SELECT DISTINCT created_at FROM post").iloc[0, 0] == "1970-01-01 00:00:00.000000"


def test_rows_of_every_column_survive_a_retyped_title():
    app = demo(100, revision="0003")
    before = _rows(app)
    _go(app, "upgrade", "0004")
    for name, rows in _rows(app).items():
        pd.testing.assert_frame_equal(before[name], rows)


def test_going_back_refuses_titles_that_would_not_fit():
    app = demo(3)
    _execute(app, "UPDATE post SET title = printf('%.81c', 'x') WHERE id = 2")
    before = _rows(app)
    with pytest.raises(RuntimeError, match="1 posts have longer ones"):
        _go(app, "downgrade", "0003")
    pd.testing.assert_frame_equal(before["post"], _rows(app)["post"])
    assert read_history(app)["applied"].all()
    _execute(app, "UPDATE post SET title = substr(title, 1, 80)")
    _go(app, "downgrade", "0003")
    assert len(read_table(app, "post")) == 3


def test_the_title_of_eighty_characters_may_stay():
    app = demo(1)
    _execute(app, "UPDATE post SET title = printf('%.80c', 'x')")
    _go(app, "downgrade", "0003")
    assert read_table(app, "post")["title"].str.len().tolist() == [80]


def test_a_new_revision_bears_no_date():
    app = demo(0)
    _go(app, "upgrade", "head")
    with app.app_context():
        flask_migrate.revision.__wrapped__(message="next", rev_id="0005")
        folder = app.extensions["migrate"].directory
    with open(f"{folder}/versions/0005_next.py", encoding="utf-8") as file:
        source = file.read()
    assert "Date" not in source and "Revises: 0004" in source


def test_two_commands_in_one_process_do_not_disturb_each_other():
    app = demo(0)
    with app.app_context():
        flask_migrate.migrate.__wrapped__(message="nothing to do", rev_id="0005")
        flask_migrate.check.__wrapped__()
        flask_migrate.upgrade.__wrapped__()
        flask_migrate.migrate.__wrapped__(message="still nothing", rev_id="0006")
    assert read_history(app)["revision"].tolist() == REVISIONS
