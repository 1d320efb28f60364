"""A history of 300 revisions on small tables: rehearsed without downgrades, against plain flask_migrate.upgrade."""
import os
from collections.abc import Callable
from pathlib import Path

from measure import Row, compete, main, measure
from subject import make_app, upgrading, write_history

_CREATE = '''{name} = op.create_table("{name}", sa.Column("id", sa.Integer, primary_key=True),
                         sa.Column("text", sa.String(20)))
op.bulk_insert({name}, [{{"id": number, "text": f"text {{number}}"}} for number in range(1, 11)])'''
_ADD = 'op.add_column("{name}", sa.Column("c{number}", sa.Integer))'
_UPDATE = '''op.execute("UPDATE {name} SET text = text || '!'")'''


def write(folder: str, revisions: int) -> Callable[[], None]:
    """Write the history: every tenth revision makes a table of ten rows, the others add a column or change a text."""
    def work() -> None:
        os.makedirs(folder)
        bodies = []
        for number in range(revisions):
            name = f"t{number // 10}"
            body = _CREATE if number % 10 == 0 else _UPDATE if number % 10 == 9 else _ADD
            bodies.append((body.format(name=name, number=number), "pass"))
        write_history(folder, bodies)
    return work


def ours(folder: str) -> Callable[[], int]:
    """Rehearse the whole history on an empty database; give how many revisions ran."""
    import appkit

    app, rehearse = make_app(folder), appkit.rehearse
    return lambda: int(rehearse(app, downgrade=False).ledger["revision"].nunique())


def plain(folder: str) -> Callable[[], int]:
    """Upgrade an empty database; give how many revisions ran."""
    Path(folder, "plain.db").unlink(missing_ok=True)
    upgrade = upgrading(folder, "plain.db")

    def work() -> int:
        upgrade()
        return len(list(Path(folder, "migrations", "versions").glob("*.py")))
    return work


def run(folder: str, revisions: int, runs: int) -> list[Row]:
    """Measure, and give the lines of the table."""
    measure(write, f"{folder}/app", revisions)
    found = compete(runs, [ours, plain], f"{folder}/app")
    mine, theirs = found["ours"], found["plain"]
    what, name = f"rehearse {revisions} revisions on small tables", "flask_migrate.upgrade"
    return [Row(what, "s", mine.seconds, theirs.seconds, name, 3.0),
            Row(f"{what}, peak", "MB", mine.peak_mb, theirs.peak_mb, name)]


if __name__ == "__main__":
    main(run, revisions=300, runs=3)
