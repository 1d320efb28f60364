"""The app: its routes, its URL, its commands."""
import os
import subprocess
import sys
from pathlib import Path

import flask_migrate
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from appkit import Post, User, create_app, db, demo
from appkit.databases import engine_of, with_driver

# Flask-Migrate's env.py first tries the old name of Flask-SQLAlchemy's engine.
pytestmark = pytest.mark.filterwarnings("ignore:'get_engine' is deprecated:DeprecationWarning")

ROOT = Path(__file__).resolve().parent.parent
ADA = {"username": "ada", "email": "ada@example.org"}


@pytest.fixture
def app() -> Flask:
    return demo(0)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def test_a_user_is_made_and_shown(client):
    made = client.post("/users", json=ADA)
    assert (made.status_code, made.json) == (201, {"id": 1, **ADA})
    assert client.get("/users/1").json == {"id": 1, **ADA}
    assert client.get("/users").json == [{"id": 1, **ADA}]


def test_users_come_in_pages():
    client = demo(250).test_client()
    assert [user["id"] for user in client.get("/users").json] == list(range(1, 101))
    assert [user["id"] for user in client.get("/users?after=248&limit=5").json] == [249, 250]
    assert [user["id"] for user in client.get("/users?limit=0").json] == [1]
    assert len(client.get("/users?limit=999").json) == 100
    assert client.get(f"/users?after={10**30}").json == []
    assert len(client.get(f"/users?after=-{10**30}&limit=2").json) == 2


@pytest.mark.parametrize("data, message", [
    ([], "JSON object"),
    ("ada", "JSON object"),
    ({}, "username must be a text"),
    ({**ADA, "username": 5}, "username must be a text"),
    ({**ADA, "username": " "}, "username must be a text"),
    ({**ADA, "username": "a\x00b"}, "username must be a text"),
    ({**ADA, "username": "\ud800"}, "username must be a text"),
    ({**ADA, "username": "a" * 81}, "has 81 characters; at most 80"),
    ({**ADA, "email": "a@" + "b" * 119}, "has 121 characters; at most 120"),
    ({**ADA, "email": "nobody"}, "must have an @"),
    ({**ADA, "admin": True}, "Unknown: 'admin'"),
])
def test_a_wrong_user_is_refused_with_the_reason(client, data, message):
    answer = client.post("/users", json=data)
    assert answer.status_code == 400
    assert message in answer.json["error"]
    assert client.get("/users").json == []


def test_a_body_that_is_no_json_is_refused_in_json(client):
    assert client.post("/users", data="username=ada").status_code == 415
    broken = client.post("/users", data="{", content_type="application/json")
    assert broken.status_code == 400 and broken.json["error"]


@pytest.mark.parametrize("again", [{"email": "other@example.org"}, {"username": "other"}])
def test_a_taken_name_or_email_is_a_conflict(client, again):
    client.post("/users", json=ADA)
    answer = client.post("/users", json={**ADA, **again})
    assert answer.status_code == 409 and "taken" in answer.json["error"]
    assert client.post("/users", json={"username": "b", "email": "b@c"}).status_code == 201


@pytest.mark.parametrize("path", ["/users/7", f"/users/{10**30}", "/users/x", "/nowhere"])
def test_what_is_not_there_is_404_in_json(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and answer.json["error"]


def test_a_wrong_method_says_which_are_right(client):
    answer = client.delete("/users")
    assert answer.status_code == 405 and answer.json["error"]
    assert "POST" in answer.headers["Allow"]


def test_health_is_ok_at_the_head(client):
    answer = client.get("/health")
    assert (answer.status_code, answer.json) == (200, {"status": "ok", "revision": "0004", "head": "0004"})


@pytest.mark.parametrize("revision, shown", [("base", ""), ("0002", "0002")])
def test_health_asks_for_a_migration_behind_the_head(revision, shown):
    answer = demo(0, revision=revision).test_client().get("/health")
    assert (answer.status_code, answer.json) == (503, {"status": "migrate", "revision": shown, "head": "0004"})


def test_health_says_unreachable(tmp_path):
    answer = create_app(f"sqlite:///{tmp_path / 'no' / 'where.db'}").test_client().get("/health")
    assert (answer.status_code, answer.json["status"]) == (503, "unreachable")


def test_health_says_broken_without_a_history(tmp_path):
    answer = create_app(f"sqlite:///{tmp_path / 'x.db'}", migrations=tmp_path / "none").test_client().get("/health")
    assert (answer.status_code, answer.json["status"]) == (503, "broken")


def test_foreign_keys_are_enforced(app):
    with app.app_context(), pytest.raises(IntegrityError):
        db.session.execute(db.insert(Post).values(author_id=99, title="nobody's"))
        db.session.commit()


def test_posts_go_with_their_author(app):
    with app.app_context():
        user = User(**ADA, posts=[Post(title="one")])
        db.session.add(user)
        db.session.commit()
        db.session.delete(user)
        db.session.commit()
        assert db.session.scalars(db.select(Post)).all() == []


@pytest.mark.parametrize("given, dialect", [
    ("postgres://u:p@h/d", "postgresql"), ("postgresql://u:p@h/d", "postgresql"), ("mysql://u:p@h/d", "mysql"),
    ("mariadb://u:p@h/d", "mariadb"), ("sqlite:///x.db", "sqlite"),
])
def test_a_url_without_a_driver_gets_one(given, dialect):
    url = with_driver(given)
    assert url.get_backend_name() == dialect
    assert dialect == "sqlite" or "+" in url.drivername
    assert with_driver("postgresql+pg8000://h/d").drivername == "postgresql+pg8000"


def test_a_password_with_percent_signs_survives():
    assert with_driver("postgres://u:p%25%40x@h/d").password == "p%@x"


def test_a_percent_sign_in_the_url_reaches_the_database(tmp_path):
    app = create_app(f"sqlite:///{tmp_path / 'a%b%(c)s.db'}")
    with app.app_context():
        flask_migrate.upgrade()
    assert (tmp_path / "a%b%(c)s.db").stat().st_size > 0
    engine_of(app).dispose()


def test_the_environment_gives_the_url(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'env.db'}")
    assert engine_of(create_app()).url.database == str(tmp_path / "env.db")
    assert engine_of(create_app(f"sqlite:///{tmp_path / 'given.db'}")).url.database == str(tmp_path / "given.db")


def test_without_any_url_it_is_the_instance_folder(monkeypatch):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    app = create_app()
    assert engine_of(app).url.database == os.path.join(app.instance_path, "appkit.db")


def test_two_apps_in_one_process_keep_apart():
    first, second = demo(1), demo(2)
    for app, count in ((first, 1), (second, 2)):
        with app.app_context():
            assert db.session.scalar(text("SELECT count(*) FROM user")) == count


def _flask(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path / 'cli.db'}", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "flask", "--app", "appkit", *arguments], env=environment,
                          cwd=tmp_path, capture_output=True, text=True, timeout=60)


def test_every_db_command_works_from_any_folder(tmp_path):
    upgraded = _flask(tmp_path, "db", "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    assert "0004 (head)" in _flask(tmp_path, "db", "current").stdout
    assert "0001 -> 0002, Adding posts table" in _flask(tmp_path, "db", "history").stdout
    assert _flask(tmp_path, "db", "check").returncode == 0


def test_flask_shows_the_routes(tmp_path):
    shown = _flask(tmp_path, "routes")
    assert shown.returncode == 0, shown.stderr
    assert "/health" in shown.stdout and "/users/<int:user_id>" in shown.stdout


def test_no_command_loads_pandas():
    code = "import sys, appkit.app, appkit.history; sys.exit('pandas' in sys.modules or 'duckdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
