"""Small Flask apps with a history, as a user would have them, for tests that rehearse."""
import contextlib
import io
import sqlite3
import textwrap
import weakref
from pathlib import Path

import flask_migrate
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event

# Flask-Migrate's env.py first tries the old name of Flask-SQLAlchemy's engine.
IGNORED = "ignore:'get_engine' is deprecated:DeprecationWarning"

_REVISION = '''"""about {revision}"""
from alembic import op
import sqlalchemy as sa

revision = {revision!r}
down_revision = {follows!r}
{head}

def upgrade():
{upgrade}


def downgrade():
{downgrade}
'''


def make_app(folder: Path, setup: str = "", *, url: str = "", migrate: type = flask_migrate.Migrate,
             foreign_keys: bool = True, config: dict | None = None, **configure: object) -> Flask:
    """Make an app with Flask-Migrate's own env.py and no revisions; its pool is let go with the app.

    Parameters
    ----------
    setup
        SQL that fills `folder/app.db` first; without any, the file is not made.
    url
        Another database in place of that file.
    migrate
        The class that sets migrations up: Flask-Migrate's own, or appkit.Migrate.
    foreign_keys
        Whether the app's engine has SQLite enforce them.
    config, configure
        More of the app's config; what Migrate passes on to Alembic.
    """
    app = Flask("tried", instance_path=str(folder / "instance"))
    app.config["SQLALCHEMY_DATABASE_URI"] = url or f"sqlite:///{folder / 'app.db'}"
    app.config.update(config or {})
    db = SQLAlchemy(app)
    migrate(app, db, directory=str(folder / "migrations"), **configure)
    with app.app_context(), contextlib.redirect_stdout(io.StringIO()):
        weakref.finalize(app, db.engine.dispose)
        if foreign_keys:
            event.listen(db.engine, "connect", lambda connection, _record: connection.execute("PRAGMA foreign_keys=ON"))
        if not (folder / "migrations").exists():
            flask_migrate.init()
    if setup:
        run_sql(folder / "app.db", setup)
    return app


def write_revision(app: Flask, revision: str, upgrade: str = "pass", downgrade: str = "pass", *,
                   follows: str | tuple[str, ...] | None = None, head: str = "") -> Path:
    """Write a revision file of two bodies, which may use `op` and `sa`; `head` stands above them. Give its path."""
    path = Path(app.extensions["migrate"].directory) / "versions" / f"{revision}.py"
    bodies = {name: textwrap.indent(textwrap.dedent(body).strip("\n") or "pass", "    ")
              for name, body in (("upgrade", upgrade), ("downgrade", downgrade))}
    path.write_text(_REVISION.format(revision=revision, follows=follows, head=textwrap.dedent(head), **bodies))
    return path


def run_sql(path: Path, script: str) -> None:
    """Run statements on a SQLite file, and let it go."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        connection.commit()


def read_sql(path: Path, statement: str) -> list[tuple]:
    """Give the rows of a statement on a SQLite file, and let it go."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()
