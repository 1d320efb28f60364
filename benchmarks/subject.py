"""What is measured: a Flask app as a user would have it, its history, and its table of many rows."""
import os
import sqlite3
import textwrap
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what a contender does not use must not be in its memory
    from flask import Flask

_TABLES = """
CREATE TABLE account (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(80) NOT NULL, visits INTEGER NOT NULL,
                      active BOOLEAN NOT NULL, score FLOAT, created_at DATETIME NOT NULL);
CREATE TABLE setting (name VARCHAR(20) NOT NULL PRIMARY KEY, value VARCHAR(20));
INSERT INTO setting VALUES ('colour', 'blue'), ('size', '12');
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0001');
"""
# About 130 bytes a row, the same in every run; one score in ten is NULL.
_ROWS = """
INSERT INTO account WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?)
SELECT i, printf('Account holder %d, of the %dth district and its savings and loan office', i, i % 97),
       i * 7919 % 100000, i % 3 = 0, CASE WHEN i % 10 THEN i * 0.37 END,
       strftime('%Y-%m-%d %H:%M:%S', 1767225600 + i * 37, 'unixepoch') || printf('.%06d', i * 104729 % 1000000) FROM n
"""
_REVISION = '''"""Revision {revision}."""
import sqlalchemy as sa
from alembic import op

revision = {revision!r}
down_revision = {follows!r}


def upgrade():
{upgrade}


def downgrade():
{downgrade}
'''
_RETYPE = 'with op.batch_alter_table("account") as batch:\n    batch.alter_column("visits", type_={})'
RETYPED = (_RETYPE.format("sa.BigInteger()"), _RETYPE.format("sa.Integer()"))
"""A revision that retypes one column of the large table."""
CHANGED = (f"""{RETYPED[0]}
op.execute("UPDATE account SET score = 0.5 WHERE id % 100 = 7")
op.execute("DELETE FROM account WHERE id % 1000 = 999")""", "pass")
"""One that also changes a value in a hundred of another column, and loses a row in a thousand."""
SMALL = ('op.add_column("setting", sa.Column("note", sa.String(20)))', 'op.drop_column("setting", "note")')
"""A revision that touches a small table only."""


def make_app(folder: str, database: str = "app.db") -> "Flask":
    """Make the app on a database file of its folder, or on a URL, with Flask-Migrate's own env.py."""
    import flask_migrate
    from flask import Flask
    from flask_sqlalchemy import SQLAlchemy

    app = Flask("measured", instance_path=f"{folder}/instance")
    app.config["SQLALCHEMY_DATABASE_URI"] = database if "://" in database else f"sqlite:///{folder}/{database}"
    flask_migrate.Migrate(app, SQLAlchemy(app), directory=f"{folder}/migrations")
    return app


def fill(folder: str, rows: int, upgrade: str, downgrade: str) -> Callable[[], None]:
    """Make a database of so many rows at revision 0001, with 0002 pending."""
    def work() -> None:
        os.makedirs(folder, exist_ok=True)
        write_history(folder, [("pass", "pass"), (upgrade, downgrade)])
        with closing(sqlite3.connect(f"{folder}/app.db")) as connection:
            connection.executescript(_TABLES)
            connection.execute(_ROWS, [rows])
            connection.commit()
    return work


def write_history(folder: str, bodies: list[tuple[str, str]]) -> None:
    """Write a history whose revisions 0001, 0002, … have these upgrades and downgrades."""
    import flask_migrate

    os.makedirs(folder, exist_ok=True)

    with make_app(folder).app_context(), redirect_stdout(StringIO()):
        flask_migrate.init()
    for number, (upgrade, downgrade) in enumerate(bodies, start=1):
        follows = f"{number - 1:04}" if number > 1 else None
        text = _REVISION.format(revision=f"{number:04}", follows=follows,
                                upgrade=textwrap.indent(upgrade, "    "), downgrade=textwrap.indent(downgrade, "    "))
        Path(folder, "migrations", "versions", f"{number:04}.py").write_text(text)


def back_up(folder: str, copy: str) -> None:
    """Copy the app's database to another file of its folder, as SQLite itself does."""
    with closing(sqlite3.connect(f"{folder}/app.db")) as source, closing(sqlite3.connect(f"{folder}/{copy}")) as target:
        source.backup(target)


def upgrading(folder: str, database: str) -> Callable[[], None]:
    """Give what upgrades a database of the folder, or at a URL, to the head, as `flask db upgrade` does."""
    import flask_migrate

    app = make_app(folder, database)

    def work() -> None:
        with app.app_context():
            flask_migrate.upgrade()
            app.extensions["migrate"].db.engine.dispose()
    return work
