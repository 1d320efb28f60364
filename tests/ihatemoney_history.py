"""Rehearse ihatemoney's history on databases with rows, and print as JSON what was seen.

test_ihatemoney.py runs this in an environment that has ihatemoney and appkit side by side: `stock` takes
flask_migrate.Migrate, as ihatemoney does, `appkit` takes appkit.Migrate.
"""
import hashlib
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flask_migrate
import ihatemoney
from flask import Flask
from ihatemoney.models import db
from sqlalchemy import Engine, event

import appkit

_MIGRATES = {"stock": flask_migrate.Migrate, "appkit": appkit.Migrate}
_NAMES = ("Alice", "O'Brien", 'say "hi"', "Zoë", "名前 🏠", "100% <b>:x</b>", "", None, "two\nlines", "a\x00b", "select")
_MODES = ("ENABLED", "DISABLED", "RECORD_IP", "ENABLED")

# The value of each column in row i, i = 1, 2, …: what the test's numbers are counted from.
_VALUES: dict[str, dict[str, Callable[[int], Any]]] = {
    "project": {
        "id": lambda i: f"{_name(i) or ''}{i}",
        "name": lambda i: None if i % 10 == 0 else "Holiday" if i % 10 < 3 else f"Trip {i}: {_name(i)}",
        "password": lambda i: "" if i % 5 == 0 else "long" * 75 if i % 7 == 0 else f"pâss{i}",
        "contact_email": lambda i: None if i % 4 == 0 else f"{i}@example.org",
        "logging_preference": lambda i: _MODES[i % 4],
    },
    "archive": {
        "id": lambda i: i,
        "project_id": lambda i: None if i % 10 == 0 else _project(i),
        "name": lambda i: _name(i),
    },
    "person": {
        "id": lambda i: i,
        "project_id": lambda i: _project(i),
        "name": lambda i: _name(i),
        "activated": lambda i: (0, 1, 1, None)[i % 4],
        "weight": lambda i: (None, 0.0, -1.5, 0.5, 1.0, 2.0, 1e308, 1e-300, float("inf"), "heavy")[i % 10],
    },
    "bill": {
        "id": lambda i: 3 * i,
        "payer_id": lambda i: None if i % 50 == 0 else 1 + i % 100,
        "amount": lambda i: None if i % 8 == 0 else i / 7 - 100,
        "date": lambda i: f"20{i % 25:02}-{1 + i % 12:02}-{1 + i % 28:02}",
        "creation_date": lambda i: None if i % 2 else "2020-02-29",
        "what": lambda i: b"\xff\x00" if i % 500 == 0 else _name(i),
        "archive": lambda i: 1 + i % 10 if i % 20 == 0 else None,
        "external_link": lambda i: None if i % 3 else f"https://example.org/?q=%20{i}",
    },
    "billowers": {  # no key: every row is there twice, some have NULLs
        "bill_id": lambda i: 3 * (1 + i // 2 % 100),
        "person_id": lambda i: None if i // 2 % 100 == 0 else 1 + i // 2 % 90,
    },
    "bill_version": {
        "id": lambda i: 1 + i % 700, "payer_id": lambda i: None if i % 9 == 0 else i, "amount": lambda i: i / 3,
        "date": lambda i: "2019-12-31", "creation_date": lambda i: None, "what": lambda i: _name(i),
        "external_link": lambda i: None, "archive": lambda i: None,
    },
    "billowers_version": {"bill_id": lambda i: i, "person_id": lambda i: 1 + i % 9},
    "person_version": {
        "id": lambda i: 1 + i % 300, "project_id": lambda i: f"gone {i % 5}", "name": lambda i: _name(i),
        "weight": lambda i: (None, 0.0, -1.5, 2.0)[i % 4], "activated": lambda i: i % 2,
    },
    "project_version": {
        "id": lambda i: f"p{i % 90}", "name": lambda i: _name(i), "password": lambda i: None if i % 6 == 0 else f"h{i}",
        "contact_email": lambda i: f"{i}@example.org",
        "logging_preference": lambda i: None if i % 5 == 0 else _MODES[i % 4],
    },
    "transaction": {
        "issued_at": lambda i: f"2020-05-{1 + i % 31:02} 12:00:00.{i:06}", "id": lambda i: i,
        "remote_addr": lambda i: (None, f"192.0.2.{i % 250}", f"2001:db8::{i:x}")[i % 3],
    },
}
_VERSIONED = {"transaction_id": lambda i: i, "end_transaction_id": lambda i: None if i % 2 else i + 1,
              "operation_type": lambda i: i % 3}

_SMALL = {"project": 10, "archive": 10, "person": 100, "bill": 100, "billowers": 200}
_MEMBERS = {"project": 12, "archive": 1000, "person": 3000, "bill": 4000, "billowers": 5000}
_LOGGED = {**_MEMBERS, "project": 2000, "bill_version": 3000, "billowers_version": 2500, "person_version": 2000,
           "project_version": 2000, "transaction": 3000}


def _name(i: int) -> str | None:
    return _NAMES[i % len(_NAMES)]


def _project(i: int) -> str:
    return _VALUES["project"]["id"](1 + i % 10)


def make_app(migrate: type, path: Path) -> Flask:
    """Make a plain app on ihatemoney's models and migrations: its own create_app would upgrade the database."""
    app = Flask("plain", instance_path=str(path.parent))
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{path}"
    db.init_app(app)
    migrate(app, db, directory=str(Path(ihatemoney.__file__).parent / "migrations"))
    return app


def upgrade(app: Flask, revision: str = "head") -> None:
    """Upgrade a database for real."""
    with app.app_context():
        flask_migrate.upgrade.__wrapped__(revision=revision)
        db.session.remove()
        db.engine.dispose()


def fill(path: Path, sizes: dict[str, int]) -> None:
    """Write rows into tables, with all the columns that they have at this revision."""
    with closing(sqlite3.connect(path)) as connection:
        for table, size in sizes.items():
            values = {**_VALUES[table], **(_VERSIONED if table.endswith("_version") else {})}
            names = [name for _, name, *_ in connection.execute(f'PRAGMA table_info("{table}")')]
            rows = (tuple(values[name](i) for name in names) for i in range(1, size + 1))
            connection.executemany(f'INSERT INTO "{table}" ({", ".join(names)}) VALUES ({", ".join("?" * len(names))})',
                                   rows)
        connection.commit()


def digest(path: Path) -> list[str]:
    """Give what tells a database file from another: of its bytes, and of its content."""
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = lambda data: data.decode(errors="backslashreplace")
        content = "\n".join(connection.iterdump())
    return [hashlib.sha256(data).hexdigest() for data in (path.read_bytes(), content.encode())]


def count_values(path: Path) -> dict[str, dict[str, int]]:
    """Count the rows (under '') and the values that are not NULL, of each table and column."""
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
                                    "AND name <> 'alembic_version'").fetchall()
        found = {}
        for (table,) in tables:
            names = [name for _, name, *_ in connection.execute(f'PRAGMA table_info("{table}")')]
            counts = ", ".join(["count(*)", *(f'count("{name}")' for name in names)])
            found[table] = dict(zip(["", *names], connection.execute(f'SELECT {counts} FROM "{table}"').fetchone()))
    return found


def observe(migrate: type, folder: Path, start: str, sizes: dict[str, int], *, spoil: str = "",
            downgrade: bool = True) -> dict[str, Any]:
    """Rehearse from a revision to head, on tables of these sizes, after a last statement that spoils the rows."""
    path = folder / f"{start}.db"
    app = make_app(migrate, path)
    upgrade(app, start)
    fill(path, sizes)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(spoil)
    before, counts = digest(path), count_values(path)
    rehearsal = appkit.rehearse(app, downgrade=downgrade)
    hashed = hash_changes(rehearsal) if "b78f8a8bdb16" in set(rehearsal.ledger["revision"]) else {}
    return {**rehearsal.to_dict(), "counts": counts, "hashed": hashed, "text": str(rehearsal),
            "before": before, "after": digest(path)}


def hash_changes(rehearsal: appkit.Rehearsal) -> dict[str, int]:
    """Count the values that differ after the passwords were hashed."""
    changes = rehearsal.rows("project", "b78f8a8bdb16")
    if changes.empty:
        return {"cells": 0}
    return {"cells": len(changes), "columns": changes["column"].nunique(), "plain": changes["before"].nunique(),
            "scrypt": int(changes["after"].str.startswith("scrypt:").sum()), "hashes": changes["after"].nunique()}


def really_upgrade(folder: Path, start: str) -> dict[str, list[int]]:
    """Upgrade a copy as ihatemoney does, and count with sqlite3 alone what differs: changed, lost, filled by column."""
    copy = folder / "real.db"
    shutil.copyfile(folder / f"{start}.db", copy)
    upgrade(make_app(flask_migrate.Migrate, copy))
    before, after = _cells(folder / f"{start}.db"), _cells(copy)
    copy.unlink()
    found: dict[str, list[int]] = {}
    for column in sorted(before.keys() | after.keys()):
        old, new = before.get(column, {}), after.get(column, {})
        counts = [sum(key in new and new[key] != value for key, value in old.items()), len(old.keys() - new.keys()),
                  len(new.keys() - old.keys())]
        if any(counts):
            found[column] = counts
    return found


def _cells(path: Path) -> dict[str, dict[Any, Any]]:
    """Give the values of a database that are not NULL, by column, then by the row's key."""
    cells: dict[str, dict[Any, Any]] = {}
    with closing(sqlite3.connect(path)) as connection:
        for table in count_values(path):
            columns = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
            keys = [place for place, *_, part in columns if part]
            # Rows without a key are told apart by their whole content, and by how often it came before.
            rows = sorted(connection.execute(f'SELECT * FROM "{table}"'), key=repr)
            for number, row in enumerate(rows):
                key = tuple(row[place] for place in keys) or number
                for (_, name, *_), value in zip(columns, row):
                    if value is not None:
                        cells.setdefault(f"{table}.{name}", {})[key] = value
    return cells


@contextmanager
def foreign_keys() -> Iterator[None]:
    """Enforce foreign keys on every connection, also on those of the engine that ihatemoney's env.py makes."""
    def enforce(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA foreign_keys=ON")

    event.listen(Engine, "connect", enforce)
    try:
        yield
    finally:
        event.remove(Engine, "connect", enforce)


def main(kind: str, folder: Path) -> dict[str, Any]:
    """Rehearse all that the test asks for."""
    migrate = _MIGRATES[kind]
    seen: dict[str, Any] = {"sqlalchemy": version("sqlalchemy"), "ihatemoney": version("ihatemoney")}
    seen["members"] = observe(migrate, folder, "26d6a218c329", _MEMBERS,
                              spoil="UPDATE bill SET payer_id = 99999 WHERE id <= 30")
    seen["logged"] = observe(migrate, folder, "2dcb0c0048dc", _LOGGED)
    seen["first"] = observe(migrate, folder, "b9a10d5d63ce", _SMALL,
                            spoil="UPDATE project SET password = NULL WHERE contact_email = '6@example.org'")
    with foreign_keys():
        seen["enforced"] = observe(migrate, folder, "6c6fb2b7f229", _MEMBERS, downgrade=False)
    if kind == "stock":
        seen["real"] = {name: really_upgrade(folder, start)
                        for name, start in (("members", "26d6a218c329"), ("logged", "2dcb0c0048dc"))}
    return seen


if __name__ == "__main__":
    json.dump(main(sys.argv[1], Path(sys.argv[2])), sys.stdout)
