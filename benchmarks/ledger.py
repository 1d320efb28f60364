"""The ledger of two kept tables of 1,000,000 rows, against datacompy on DataFrames that are in memory already.

In one column a value in a hundred differs, and a row in a thousand is gone: where nothing differs, datacompy takes two
thirds of the time and memory.
"""
import pickle
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from measure import Row, compete, is_installed, main, measure
from subject import CHANGED, back_up, fill, upgrading

if TYPE_CHECKING:  # what a contender does not use must not be in its memory
    import sqlalchemy as sa


def keep(folder: str) -> Callable[[], None]:
    """Keep the table before and after its revision: in a snapshot file for ours, as DataFrames for the peer."""
    import pandas as pd
    import sqlalchemy as sa

    upgrade = upgrading(folder, "copy.db")
    engines = {name: sa.create_engine(f"sqlite:///{folder}/{name}.db") for name in ("app", "copy")}

    def work() -> None:
        back_up(folder, "copy.db")
        upgrade()
        _keep_snapshots(folder, engines.values())
        for name, engine in engines.items():
            pd.read_sql_table("account", engine).to_pickle(f"{folder}/{name}.pickle")
    return work


def _keep_snapshots(folder: str, engines: Iterable["sa.Engine"]) -> None:
    """Keep the table's rows as a rehearsal does, in one file, and note what was kept."""
    from appkit.databases.sqlite import read_copy, read_tables
    from appkit.snapshots import Snapshots

    kept = []
    with closing(Snapshots(Path(folder))) as snapshots:
        for engine in engines:
            with engine.connect() as connection:
                table = next(table for table in read_tables(connection) if table.name == "account")
            kept.append(snapshots.keep(table, read_copy(engine, table)))
    Path(folder, "kept.pickle").write_bytes(pickle.dumps(kept))


def ours(folder: str) -> Callable[[], int]:
    """Count the ledger; give the rows kept."""
    from appkit.matching import match_tables
    from appkit.snapshots import Snapshots

    before, after = pickle.loads(Path(folder, "kept.pickle").read_bytes())
    snapshots = Snapshots(Path(folder))
    return lambda: match_tables(snapshots, {"account": before}, {"account": after}, [], {}, {})[0][2].kept


def datacompy(folder: str) -> Callable[[], int]:
    """Compare as datacompy does; give the rows that are equal."""
    import pandas as pd
    from datacompy import PandasCompare

    before, after = (pd.read_pickle(f"{folder}/{name}.pickle") for name in ("app", "copy"))
    return lambda: int(PandasCompare(before, after, join_columns="id").count_matching_rows())


def sqlite(folder: str) -> Callable[[], int]:
    """Count what is equal, by row and by column, inside SQLite: the floor."""
    names = ("name", "visits", "active", "score", "created_at")
    same = [f"a.{name} IS b.{name}" for name in names]
    counts = ", ".join(f"sum({each})" for each in [" AND ".join(same), *same])
    statement = f"SELECT {counts} FROM account b JOIN other.account a USING (id)"

    def work() -> int:
        with closing(sqlite3.connect(f"{folder}/app.db")) as connection:
            connection.execute("ATTACH ? AS other", [f"{folder}/copy.db"])
            return connection.execute(statement).fetchone()[0]
    return work


def run(folder: str, rows: int, runs: int) -> list[Row]:
    """Measure, and give the lines of the table."""
    measure(fill, folder, rows, *CHANGED)
    measure(keep, folder)
    there = is_installed("datacompy")
    found = compete(runs, [ours, sqlite, datacompy] if there else [ours, sqlite], folder)
    mine, theirs, floor = found["ours"], found.get("datacompy"), found["sqlite"]
    what, name = f"ledger of two kept tables, {rows:,} × 6", "datacompy" if there else "datacompy: not installed"
    return [Row(what, "s", mine.seconds, theirs and theirs.seconds, name, 0.2),
            Row(f"{what}, peak", "MB", mine.peak_mb, theirs and theirs.peak_mb, name, 0.25),
            Row(what, "s", mine.seconds, floor.seconds, "floor: ATTACH and IS inside SQLite")]


if __name__ == "__main__":
    main(run, rows=1_000_000, runs=3)
