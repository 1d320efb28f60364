"""Two tables compared: where rows stand changes how they are joined, and nothing of what is told."""
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appkit.batches import Batch, parts_of
from appkit.comparison import Comparison
from appkit.databases import Column, Table
from appkit.differences import differences, filled_with, lost_for_good, sample_changes
from appkit.ledger import count_ledger
from appkit.snapshots import Snapshots
from appkit.values import Kept

VALUES = st.sampled_from([None, 0, 1, 1.0, -0.0, "1", "1.0", "", b"1", 2**53 + 1, "a\0b"])
ROWS = st.lists(st.tuples(VALUES, VALUES), max_size=6)


def keep(snapshots: Snapshots, rows: list[tuple], types: str = "TEXT TEXT TEXT", key: str = "id") -> Kept:
    columns = tuple(Column(name, type_, True) for name, type_ in zip(("id", "x", "y"), types.split()))
    batches = [Batch(len(rows), [parts_of(values) for values in zip(*rows)])] if rows else []
    return snapshots.keep(Table("t", columns, tuple(key.split()), (), ()), batches)


@pytest.fixture
def compare(tmp_path: Path) -> Iterator[Callable[..., Comparison]]:
    opened = Snapshots(tmp_path)

    def compared(before: list[tuple], after: list[tuple], types: tuple = ("TEXT TEXT TEXT",) * 2,
                 key: str = "id") -> Comparison:
        sides = [keep(opened, rows, each, key) for rows, each in zip((before, after), types)]
        return Comparison(opened, *sides, {name: name for name in ("id", "x", "y")})
    yield compared
    opened.close()


def told(comparison: Comparison) -> tuple:
    lost = lost_for_good(comparison, None) if comparison.key else None
    few = [sample_changes(comparison, name, name) for name in ("x", "y")]
    filled = [sorted(map(repr, filled_with(comparison, name, name, 9))) for name in ("x", "y")]
    return count_ledger(comparison), lost, few, filled, differences(comparison)


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS, st.sampled_from(["id", ""]), st.sampled_from(["TEXT", "REAL"]), st.randoms())
def test_rows_in_another_order_are_the_same_rows(old, new, key, type_, random):
    before, after = ([(place, *row) for place, row in enumerate(rows)] for rows in (old, new))
    with TemporaryDirectory() as folder:
        snapshots = Snapshots(Path(folder))
        first, there = keep(snapshots, before, key=key), keep(snapshots, after, f"TEXT {type_} TEXT", key)
        random.shuffle(after)
        mixed = keep(snapshots, after, f"TEXT {type_} TEXT", key)
        lineage = {name: name for name in ("id", "x", "y")}
        one, other = (told(Comparison(snapshots, first, kept, lineage)) for kept in (there, mixed))
        snapshots.close()
    assert repr(one) == repr(other)


def test_rows_that_stand_in_line_are_joined_by_their_place(compare):
    rows = [(1, "a", None), (2, "b", "c")]
    assert compare(rows, [(1, "A", None), (2, "b", None)]).aligned
    assert not compare(rows, rows[::-1]).aligned and not compare(rows, rows[:1]).aligned


def test_what_is_in_line_by_values_of_another_kind_is_another_key(compare):
    ledger = count_ledger(compare([(1, "a", "b"), (2, "c", "d")], [(1, "a", "b"), ("2", "c", "d")]))
    assert (ledger.kept, ledger.lost, ledger.added) == (1, 1, 1)


def test_a_negative_zero_is_a_zero_and_nan_is_nan(compare):
    nan, inf = float("nan"), float("inf")
    assert count_ledger(compare([(1, -0.0, nan), (2, inf, nan)], [(1, 0.0, nan), (2, inf, nan)])).whole
    assert not count_ledger(compare([(1, inf, nan)], [(1, -inf, nan)])).whole
    assert count_ledger(compare([(1, -0.0, nan), (2, "", 1)], [(1, 0.0, nan), (2, "", 1)])).whole


@pytest.mark.parametrize("text, number", [("-0.0", 0), ("1e3", 1000), (" 1", 1), ("+1", 1), ("1.50", 1.5), ("nan", 0)])
def test_without_a_key_a_text_that_its_number_does_not_give_back_is_lost(compare, text, number):
    types = ("TEXT BLOB TEXT", "TEXT DATETIME TEXT")
    ledger = count_ledger(compare([(1, text, "a"), (2, 5, "b")], [(1, number, "a"), (2, "x", "b")], types, ""))
    assert (ledger.kept, ledger.lost) == (0, 2)


def test_rows_that_differ_are_written_again_after_they_were_let_go(compare):
    comparison = compare([(1, "a", "b")], [(1, "A", "b")])
    ledger = count_ledger(comparison)
    comparison.release()
    assert comparison.row("SELECT count(*) FROM duckdb_tables() WHERE temporary") == (0,)
    comparison.release()
    assert count_ledger(comparison) == ledger and sample_changes(comparison, "x", "x") == [("id=1", "a", "A")]


def test_what_part_is_compared_is_told_slice_by_slice(compare, monkeypatch):
    monkeypatch.setattr("appkit.comparison._WAYS", [(512, 2, 2)])
    monkeypatch.setattr("appkit.snapshots._FEW", 0)
    comparison = compare([(n, "a", "b") for n in range(7)], [(n, "a", "b") for n in range(6)])
    told = []
    monkeypatch.setattr(Snapshots, "percent", property(None, lambda _, percent: told.append(percent)), raising=False)
    with comparison.snapshots.comparing(comparison.before, comparison.after):
        assert count_ledger(comparison).lost == 1
    assert told == [None, 25, 50, 75, 100]


# ---- a few rows, which are compared before they are kept in DuckDB

FEW = [
    ([(1, "a", 1)], [(1, "a", 1)], True),
    ([(1, "a", 1)], [(1, "a", 1.0)], False),
    ([(1, "a", None)], [(1, "a", 1)], False),
    ([(1, "a", 1), (2, "b", 2)], [(2, "b", 2), (1, "a", 1)], False),  # in another order: DuckDB says
    ([(1, "a", 1), (2, "b", 2)], [(2, "a", 1), (1, "b", 2)], False),  # only the keys are in another order
    ([(1, "a", 1), (2, "b", None), (3, "c", 3)], [(1, "a", None), (2, "b", 2), (3, "c", 4)], False),
    ([(1, "a", 1)], [], False),
    ([], [], True),
]


def keep_few(snapshots: Snapshots, rows: list[tuple], key: str) -> Kept:
    table = Table("t", tuple(Column(name, "BLOB", True) for name in "abc"), tuple(key), (), ())
    return snapshots.keep(table, [Batch(len(rows), [parts_of(values) for values in zip(*rows)])] if rows else [])


@pytest.mark.parametrize("lineage", ["abc", "ac"])
@pytest.mark.parametrize("key", ["a", ""], ids=["with a key", "without"])
@pytest.mark.parametrize("before, after, alike", FEW)
def test_a_few_rows_count_as_duckdb_counts_them(snapshots, before, after, alike, key, lineage):
    found = []
    for in_duckdb in (False, True):
        sides = [keep_few(snapshots, rows, key) for rows in (before, after)]
        for kept in sides if in_duckdb else ():
            snapshots.load(kept)
            kept.few = None
        comparison = Comparison(snapshots, *sides, {name: name for name in lineage})
        assert in_duckdb or lineage == "ac" or comparison.alike == alike
        found.append((comparison.key, count_ledger(comparison), differences(comparison),
                      lost_for_good(comparison, None) if key else None, sample_changes(comparison, "c", "c")))
    assert found[0] == found[1]


def test_a_few_rows_that_are_alike_are_not_kept_in_duckdb(snapshots):
    table = Table("t", (Column("a", "TEXT", True),), ("a",), (), ())
    before, after = (snapshots.keep(table, iter([Batch(1, [parts_of(["x"])])])) for _ in range(2))
    assert count_ledger(Comparison(snapshots, before, after, {"a": "a"})).whole
    assert before.relation == after.relation == ""
