"""The Flask app: its factory and its few routes."""
import os
import sqlite3
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, current_app, jsonify, request
from sqlalchemy import URL, event, select
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError
from werkzeug.exceptions import BadRequest, HTTPException, abort
from werkzeug.wrappers import Response as WerkzeugResponse

from appkit.databases import with_driver
from appkit.errors import MigrationError
from appkit.migrate import Migrate
from appkit.models import User, db

_PAGE = 100
_LARGEST = 2**63 - 1  # the largest id that a database's integer holds; a larger one in a URL is an error in the driver

routes = Blueprint("routes", __name__)


def create_app(database_url: str | URL | None = None, *, migrations: str | Path | None = None) -> Flask:
    """Make the Flask app with its database and its migrations.

    Parameters
    ----------
    database_url
        Left out: the environment's DATABASE_URL, else SQLite in the instance folder.
    migrations
        The folder of the history. Left out: this repository's.
    """
    app = Flask("appkit")
    url = database_url or os.environ.get("DATABASE_URL") or "sqlite:///appkit.db"
    app.config["SQLALCHEMY_DATABASE_URI"] = with_driver(url)
    app.config["MAX_CONTENT_LENGTH"] = 16 * 1024  # a user is small
    app.json.sort_keys = False
    db.init_app(app)
    Migrate(app, db, directory=migrations or find_migrations())
    app.register_blueprint(routes)
    with app.app_context():
        event.listen(db.engine, "connect", _enforce_foreign_keys)
    return app


def find_migrations() -> Path:
    """Find the folder of this repository's history: beside the package, or in it once it is installed."""
    package = Path(__file__).resolve().parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _enforce_foreign_keys(connection: Any, _record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):  # every other database does so by itself
        connection.execute("PRAGMA foreign_keys=ON")


@routes.app_errorhandler(HTTPException)
def _as_json(error: HTTPException) -> WerkzeugResponse:
    response = error.get_response()  # with its headers: a 405 says which methods are allowed
    response.data = jsonify(error=error.description).data
    response.content_type = "application/json"
    return response


@routes.app_errorhandler(OperationalError)
def _not_ready(_error: OperationalError) -> tuple[Response, int]:
    return jsonify(error="The database is not ready. Is it there, and has `flask db upgrade` been run?"), 503


@routes.get("/users")
def list_users() -> Response:
    """A page of users by id: `?after=` the last id seen, `?limit=` at most 100."""
    after = min(max(request.args.get("after", 0, type=int), 0), _LARGEST)
    limit = min(max(request.args.get("limit", _PAGE, type=int), 1), _PAGE)
    users = db.session.scalars(select(User).where(User.id > after).order_by(User.id).limit(limit))
    return jsonify([_as_dict(user) for user in users])


@routes.post("/users")
def create_user() -> tuple[Response, int]:
    """Make a user from a JSON object with `username` and `email`."""
    try:
        data = request.get_json()
    except BadRequest:
        abort(400, "The body is not JSON.")
    except RecursionError:
        abort(400, "The body is nested too deeply.")
    user = User(**_valid_user(data))
    db.session.add(user)
    try:
        db.session.commit()
    except IntegrityError:
        db.session.rollback()
        abort(409, "This username or this email is taken.")
    return jsonify(_as_dict(user)), 201


@routes.get("/users/<int:user_id>")
def show_user(user_id: int) -> Response:
    """One user."""
    user = db.session.get(User, user_id) if user_id <= _LARGEST else None
    if user is None:
        abort(404, f"No user has the id {user_id}.")
    return jsonify(_as_dict(user))


@routes.get("/health")
def health() -> tuple[Response, int]:
    """Say where the database stands; 503 unless it stands at the head of the history."""
    from appkit.history import current_heads, script_heads  # Alembic with it: loaded when first asked for

    try:
        revision, head = current_heads(current_app), script_heads(current_app)
    except SQLAlchemyError:
        return jsonify(status="unreachable", revision=None, head=None), 503
    except MigrationError:
        return jsonify(status="broken", revision=None, head=None), 503
    ready = revision == head
    return jsonify(status="ok" if ready else "migrate", revision=revision, head=head), 200 if ready else 503


def _as_dict(user: User) -> dict:
    return {"id": user.id, "username": user.username, "email": user.email}


def _valid_user(data: object) -> dict[str, str]:
    """Give username and email out of a request's JSON, or answer 400 with what is wrong."""
    if not isinstance(data, dict):
        abort(400, "Send a JSON object with username and email.")
    for name in ("username", "email"):
        longest = getattr(User, name).type.length
        value = data.get(name)
        if not isinstance(value, str) or not value.strip() or not _is_storable(value):
            abort(400, f"{name} must be a text that is not empty.")
        if len(value) > longest:
            abort(400, f"{name} has {len(value)} characters; at most {longest} fit.")
    if "@" not in data["email"]:
        abort(400, "email must have an @.")
    unknown = sorted(set(data) - {"username", "email"})
    if unknown:
        told = ", ".join(map(ascii, unknown))[:200]
        abort(400, f"Unknown: {told}. A user has username and email.")
    return {"username": data["username"], "email": data["email"]}


def _is_storable(text: str) -> bool:
    # JSON can say what no database stores: NUL, and half a surrogate pair.
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
