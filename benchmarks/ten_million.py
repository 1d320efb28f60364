"""Rehearsing a retyped column over 10,000,000 rows, 1.3 GB of SQLite: memory, and time per row against a tenth."""
from measure import Row, compete, main, measure
from rehearse import ours
from subject import RETYPED, fill

_MOST_MB = 1500


def run(folder: str, rows: int, runs: int) -> list[Row]:
    """Measure, and give the lines of the table."""
    found = {}
    for size in (rows // 10, rows):
        place = f"{folder}/{size}"
        measure(fill, place, size, *RETYPED)
        found[size] = compete(runs, [ours], place)["ours"]
    small, large = found[rows // 10], found[rows]
    what = f"rehearse a retyped column, {rows:,} rows"
    return [Row(f"{what}, peak", "MB", large.peak_mb, _MOST_MB, "the bound", 1.0),
            Row(f"{what}, per row", "µs", large.seconds / rows * 1e6, small.seconds / (rows // 10) * 1e6,
                f"at {rows // 10:,} rows", 1.3),
            Row(f"{what}, in all", "s", large.seconds)]


if __name__ == "__main__":
    main(run, rows=10_000_000, runs=1)
