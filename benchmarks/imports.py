"""What appkit adds to the start of an app: its import, and `flask db current`, against Flask with its extensions."""
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from measure import Measured, Row, compete, main, measure
from subject import write_history

_APP = """
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from {package} import Migrate

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///{folder}/app.db"
Migrate(app, SQLAlchemy(app), directory="{folder}/migrations")
"""


def write(folder: str) -> Callable[[], None]:
    """Write two apps that differ in the Migrate they use."""
    def work() -> None:
        write_history(folder, [("pass", "pass")])
        for package in ("appkit", "flask_migrate"):
            Path(folder, f"{package}_app.py").write_text(_APP.format(package=package, folder=folder))
    return work


def import_appkit() -> Callable[[], None]:
    """Import appkit: nothing is loaded yet but its door."""
    def work() -> None:
        import appkit  # noqa: F401
    return work


def import_create_app() -> Callable[[], None]:
    """Import what this repository's app needs."""
    def work() -> None:
        from appkit import create_app  # noqa: F401
    return work


def import_flask() -> Callable[[], None]:
    """Import Flask, Flask-SQLAlchemy and Flask-Migrate."""
    def work() -> None:
        import flask  # noqa: F401
        import flask_migrate  # noqa: F401
        import flask_sqlalchemy  # noqa: F401
    return work


def with_appkit(folder: str) -> Callable[[], None]:
    """Run `flask db current` of an app with appkit.Migrate."""
    return _current(folder, "appkit_app")


def without(folder: str) -> Callable[[], None]:
    """Run `flask db current` of an app with flask_migrate.Migrate."""
    return _current(folder, "flask_migrate_app")


def _current(folder: str, app: str) -> Callable[[], None]:
    command = [sys.executable, "-m", "flask", "--app", app, "db", "current"]

    def work() -> None:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return work


def run(folder: str, runs: int) -> list[Row]:
    """Measure, and give the lines of the table."""
    measure(write, folder)
    imports = compete(runs, [import_appkit, import_flask, import_create_app])
    commands = compete(runs, [with_appkit, without], folder)
    bare, name = imports["import_flask"], "flask, flask_sqlalchemy, flask_migrate"
    return [_row("import appkit", imports["import_appkit"], bare, name),
            _row("from appkit import create_app", imports["import_create_app"], bare, name),
            _row("flask db current, the whole command", commands["with_appkit"], commands["without"],
                 "flask_migrate.Migrate")]


def _row(what: str, ours: Measured, theirs: Measured, name: str) -> Row:
    return Row(what, "ms", 1000 * ours.seconds, 1000 * theirs.seconds, name, 1.15)


if __name__ == "__main__":
    main(run, runs=9)
