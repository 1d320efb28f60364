"""MariaDB: reading 1,000,000 rows, and watching 300 small revisions.

Needs Debian's mariadb-server, which the tests' own module starts in a temporary folder.
"""
import shutil
import sys
from pathlib import Path

from measure import Row, compete, is_installed, main, measure
from served import database_at, execute, ours, pandas, run_history

_FILL = [
    """CREATE TABLE account (id integer PRIMARY KEY, name varchar(80) NOT NULL, visits integer NOT NULL,
                             active tinyint(1) NOT NULL, score double, created_at datetime(6) NOT NULL)""",
    """INSERT INTO account SELECT seq, CONCAT('Account holder ', seq, ', of the ', seq % 97, 'th district'),
           seq * 7919 % 100000, seq % 3 = 0, IF(seq % 10, seq * 0.37e0, NULL),
           '2026-01-01' + INTERVAL seq * 37104729 MICROSECOND FROM seq_1_to_{rows}""",
    "ANALYZE TABLE account"]


def run(folder: str, rows: int, revisions: int, runs: int) -> list[Row]:
    """Measure, and give the lines of the table."""
    if not shutil.which("mariadb-install-db") or not is_installed("pymysql", "connectorx"):
        return [Row("MariaDB", "s", 0, name="not measured: mariadb-server, PyMySQL or connectorx is not installed")]
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import servers

    server = servers.mariadb().render_as_string(hide_password=False)
    url = database_at(server, "measured")
    measure(execute, server, ["CREATE DATABASE measured"])
    measure(execute, url, [statement.format(rows=rows) for statement in _FILL])
    found = compete(runs, [ours, pandas], url)
    mine, peer, name = found["ours"], found["pandas"], "pandas.read_sql_table, PyMySQL"
    return [Row(f"MariaDB, read_table, {rows:,} × 6", "s", mine.seconds, peer.seconds, name, 0.4),
            Row(f"MariaDB, read_table, {rows:,} × 6, peak", "MB", mine.peak_mb, peer.peak_mb, name),
            *run_history("MariaDB", f"{folder}/history", server, revisions, runs)]


if __name__ == "__main__":
    main(run, rows=1_000_000, revisions=300, runs=3)
