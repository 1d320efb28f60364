"""Rehearsing one revision over 1,000,000 rows: appkit.rehearse, and the same done by hand with a backup and pandas."""
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

from measure import Measured, Row, compete, main, measure
from subject import RETYPED, SMALL, back_up, fill, make_app, upgrading


def ours(folder: str) -> Callable[[], int]:
    """Rehearse without the way back."""
    return _rehearsing(folder, downgrade=False)


def there_and_back(folder: str) -> Callable[[], int]:
    """Rehearse with the way back, and up again."""
    return _rehearsing(folder, downgrade=True)


def _rehearsing(folder: str, *, downgrade: bool) -> Callable[[], int]:
    """Rehearse, and give how many values of one column, the one that may be retyped, the ledger calls kept."""
    import appkit

    app, rehearse = make_app(folder), appkit.rehearse

    def work() -> int:
        columns = rehearse(app, downgrade=downgrade).columns
        return int(columns[(columns["table"] == "account") & (columns["column"] == "visits")]["kept"].sum())
    return work


def by_hand(folder: str) -> Callable[[], int]:
    """Upgrade a backup, read the table before and after, merge on the key, and compare column by column."""
    import pandas as pd
    import sqlalchemy as sa

    upgrade = upgrading(folder, "copy.db")
    engines = [sa.create_engine(f"sqlite:///{folder}/{name}.db") for name in ("app", "copy")]

    def work() -> int:
        back_up(folder, "copy.db")
        upgrade()
        before, after = (pd.read_sql_table("account", engine) for engine in engines)
        return _compare(before, after)["visits"]["kept"]
    return work


def _compare(before: Any, after: Any) -> dict[str, dict[str, int]]:
    """Count what became of each column's values in the rows that are in both."""
    merged = before.merge(after, on="id", how="outer", suffixes=("_before", "_after"), indicator=True)
    both = merged[merged["_merge"] == "both"]
    found = {}
    for name in before.columns.drop("id"):
        was, now = both[f"{name}_before"], both[f"{name}_after"]
        had, has, same = was.notna(), now.notna(), was == now
        found[name] = {"kept": int(same.sum()), "changed": int((had & has & ~same).sum()),
                       "lost": int((had & ~has).sum()), "filled": int((~had & has).sum())}
    return found


def plain(folder: str) -> Callable[[], int]:
    """Upgrade a backup, compare nothing, and give how many rows there are."""
    upgrade = upgrading(folder, "copy.db")

    def work() -> int:
        back_up(folder, "copy.db")
        upgrade()
        with closing(sqlite3.connect(f"{folder}/copy.db")) as connection:
            return connection.execute("SELECT count(*) FROM account").fetchone()[0]
    return work


def phases(folder: str) -> Callable[[], dict[str, float]]:
    """Rehearse, and give the seconds of each kind of work."""
    import appkit

    app = make_app(folder)
    return lambda: appkit.rehearse(app, downgrade=False).work.groupby("work", sort=False)["seconds"].sum().to_dict()


def run(folder: str, rows: int, runs: int) -> list[Row]:
    """Measure, and give the lines of the table."""
    retyped, small = f"{folder}/retyped", f"{folder}/small"
    measure(fill, retyped, rows, *RETYPED)
    measure(fill, small, rows, *SMALL)
    clocked = measure(phases, retyped)
    inside = clocked.answer | {"the rest": clocked.seconds - sum(clocked.answer.values())}
    found = compete(runs, [ours, by_hand, there_and_back, plain], retyped)
    aside = compete(runs, [ours, plain], small)
    what, hand = f"rehearse a retyped column, {rows:,} rows", found["by_hand"]
    lines = [*_pair(what, found["ours"], hand, "by hand", 0.5),
             *_pair(what, found["ours"], found["plain"], "floor: backup and upgrade, nothing compared")]
    lines += [Row(f"… of it: {phase}", "s", seconds) for phase, seconds in inside.items()]
    lines += _pair(f"{what}, and back and up again", found["there_and_back"], hand, "by hand, up only", 1.2)
    return lines + _pair(f"rehearse a small table beside {rows:,} rows", aside["ours"], aside["plain"],
                         "backup and upgrade, nothing compared")


def _pair(what: str, ours: Measured, theirs: Measured, name: str, most: float | None = None) -> list[Row]:
    return [Row(what, "s", ours.seconds, theirs.seconds, name, most),
            Row(f"{what}, peak", "MB", ours.peak_mb, theirs.peak_mb, name)]


if __name__ == "__main__":
    main(run, rows=1_000_000, runs=3)
