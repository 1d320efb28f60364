"""Reading a table of 1,000,000 rows and 6 columns, typed: appkit.read_table, pandas, connectorx, and ADBC as floor."""
import os
from collections.abc import Callable

from measure import Row, compete, is_installed, main, measure
from subject import RETYPED, fill


def ours(path: str) -> Callable[[], int]:
    """Read by appkit.read_table."""
    import appkit

    read = appkit.read_table
    return lambda: len(read(f"sqlite:///{path}", "account"))


def pandas(path: str) -> Callable[[], int]:
    """Read by pandas.read_sql_table through SQLAlchemy."""
    from pandas import read_sql_table
    from sqlalchemy import create_engine

    return lambda: len(read_sql_table("account", create_engine(f"sqlite:///{path}")))


def adbc(path: str) -> Callable[[], int]:
    """Read by ADBC to Arrow, convert what SQLite has no type for, and have pandas take it: the floor."""
    import pandas as pd
    import pyarrow as pa
    from adbc_driver_sqlite import dbapi

    dtypes = {pa.int64(): pd.Int64Dtype(), pa.float64(): pd.Float64Dtype(), pa.bool_(): pd.BooleanDtype(),
              pa.string(): pd.StringDtype()}

    def work() -> int:
        with dbapi.connect(path) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT * FROM account ORDER BY id")
            found = cursor.fetch_arrow_table()
        for name, kind in (("active", pa.bool_()), ("created_at", pa.timestamp("us"))):
            found = found.set_column(found.column_names.index(name), name, found[name].cast(kind))
        return len(found.to_pandas(types_mapper=dtypes.get))
    return work


def connectorx(path: str) -> Callable[[], int]:
    """Read by connectorx to pandas: dates come typed, booleans as such."""
    from connectorx import read_sql

    return lambda: len(read_sql(f"sqlite://{path}", "SELECT * FROM account ORDER BY id"))


def run(folder: str, rows: int, runs: int) -> list[Row]:
    """Measure, and give the lines of the table."""
    measure(fill, folder, rows, *RETYPED)
    there = {ours: True, pandas: True, adbc: is_installed("adbc_driver_sqlite"),
             connectorx: is_installed("connectorx")}
    found = compete(runs, [one for one in there if there[one]], os.path.join(folder, "app.db"))
    size = f"read_table, {rows:,} × 6"
    lines = []
    for name, peer, seconds, peak in (("pandas", "pandas.read_sql_table", 0.2, 0.45),
                                      ("adbc", "floor: ADBC, converted", 1.3, None),
                                      ("connectorx", "connectorx", None, None)):
        if name in found:
            lines += [Row(size, "s", found["ours"].seconds, found[name].seconds, peer, seconds),
                      Row(f"{size}, peak", "MB", found["ours"].peak_mb, found[name].peak_mb, peer, peak)]
        else:
            lines.append(Row(size, "s", found["ours"].seconds, name=f"{peer}: not installed", most=seconds))
    return lines


if __name__ == "__main__":
    main(run, rows=1_000_000, runs=5)
