"""Rows kept and compared: every kind of value comes back as it was, and the ledger counts what became of it."""
import itertools
from collections.abc import Callable

import duckdb
import pytest

from appkit.batches import Batch, parts_of
from appkit.databases import Column, Table
from appkit.comparison import Comparison
from appkit.differences import differences, filled_with, lost_for_good, sample_changes
from appkit.ledger import ColumnLedger, count_ledger
from appkit.matching import match_tables
from appkit.snapshots import Snapshots
from appkit.values import Kept

KINDS = [None, 0, 1, -1, 2**53, 2**53 + 1, 2**63 - 1, -2**63, 1.0, -0.0, 0.1, 1e300, float("inf"), float("-inf"), "",
         "1", "1.0", "a\0b", "größe", "𝄞", "<b>&'\"", b"", b"1", b"\xff", b"a\0b"]
INVALID = "a\udcff"  # as the reader gives text whose bytes are no UTF-8


@pytest.fixture
def keep(snapshots) -> Callable[..., Kept]:
    """Keep rows under column names, with types after a colon, and a key: keep("id:INTEGER name", rows, key=...)."""
    def kept(columns: str, rows: list[tuple], key: str = "id", *, name: str = "t", uniques: tuple = (),
             size: int = 2) -> Kept:
        described = tuple(Column(*(*column.split(":"), "TEXT")[:2], True) for column in columns.split())
        table = Table(name, described, tuple(key.split()), uniques, ())
        return snapshots.keep(table, (batch_of(rows[place:place + size]) for place in range(0, len(rows), size)))
    return kept


@pytest.fixture
def compare(snapshots) -> Callable[..., Comparison]:
    """Compare two kept tables; columns of one name continue one another, and those of `renamed`: new to old."""
    def compared(before: Kept, after: Kept, renamed: dict | None = None, added: tuple = ()) -> Comparison:
        lineage = {name: name for name in after.names if name in before.names and name not in (renamed or {}).values()}
        return Comparison(snapshots, before, after, lineage | (renamed or {}), frozenset(added))
    return compared


def rows_of(snapshots: Snapshots, kept: Kept) -> list[tuple]:
    return [row for batch in snapshots.read(kept) for row in zip(*map(batch.values, range(len(kept.names))))]


def batch_of(rows: list[tuple]) -> Batch:
    return Batch(len(rows), [parts_of(values) for values in zip(*rows)])


def exact(rows: list[tuple]) -> list[tuple]:
    return [tuple((type(value), repr(value)) for value in row) for row in rows]


def numbers(comparison: Comparison) -> tuple[int, ...]:
    ledger = count_ledger(comparison)
    return ledger.before, ledger.after, ledger.kept, ledger.changed, ledger.lost, ledger.added


def column(comparison: Comparison, name: str, was: str | None = None) -> ColumnLedger:
    return next(each for each in count_ledger(comparison).columns
                if each.column == name and (was is None or each.was == was))


# ---- keeping

@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("values", [KINDS, KINDS[::-1], [1, 2, None], [None, None, 1.5], ["a", 1],
                                    [b"", None, "x", 2**63 - 1], [None, None]], ids=repr)
def test_values_come_back_as_they_were(snapshots, keep, values, size):
    kept = keep("id x", list(enumerate(values)), size=size)
    assert exact(rows_of(snapshots, kept)) == exact(list(enumerate(values)))
    assert (kept.rows, kept.values) == (len(values), [len(values), sum(value is not None for value in values)])


@pytest.mark.parametrize("values", [[INVALID], ["a", INVALID], [INVALID, 1, None, b"a\xff"]])
def test_text_that_is_no_utf8_comes_back_as_its_bytes(snapshots, keep, values):
    kept = keep("id x", list(enumerate(values)), size=1)
    assert [row[1] for row in rows_of(snapshots, kept)] == [b"a\xff" if value == INVALID else value for value in values]


def test_text_that_is_no_utf8_is_not_the_blob_of_its_bytes(keep, compare):
    comparison = compare(keep("id x", [(1, INVALID), (2, INVALID)]), keep("id x", [(1, b"a\xff"), (2, INVALID)]))
    assert column(comparison, "x") == ColumnLedger("x", "x", kept=1, changed=1)


def test_a_table_without_rows_is_kept_and_compared(snapshots, keep, compare):
    empty, filled = keep("id x", []), keep("id x", [(1, "a")])
    assert rows_of(snapshots, empty) == []
    assert numbers(compare(empty, filled)) == (0, 1, 0, 0, 0, 1)
    assert numbers(compare(filled, empty)) == (1, 0, 0, 0, 1, 0)
    assert numbers(compare(empty, keep("id x", []))) == (0, 0, 0, 0, 0, 0)


def test_rows_come_in_the_order_of_their_key(snapshots, keep):
    assert rows_of(snapshots, keep("a b", [(2, "b"), (1, "b"), (2, "a"), (None, "z")], "a b", size=1)) == [
        (None, "z"), (1, "b"), (2, "a"), (2, "b")]


def test_forgotten_rows_leave_the_others(snapshots, keep):
    one, two = keep("id", [(1,)]), keep("id", [(2,)])
    for kept in (one, two):
        snapshots.load(kept)
    snapshots.forget_all_but({two.relation})
    assert rows_of(snapshots, two) == [(2,)]
    with pytest.raises(duckdb.CatalogException, match="s1 does not exist"):
        rows_of(snapshots, one)


# ---- which value is which

@pytest.mark.parametrize("old, new", list(itertools.permutations([1, 1.0, "1", b"1"], 2)))
def test_kinds_tell_values_apart(keep, compare, old, new):
    comparison = compare(keep("id x", [(1, old), (2, "y")]), keep("id x", [(1, new), (2, "y")]))
    assert column(comparison, "x") == ColumnLedger("x", "x", kept=1, changed=1)
    assert numbers(comparison) == (2, 2, 1, 1, 0, 0)


@pytest.mark.parametrize("old, new", [(2**53, 2**53 + 1), (2**63 - 1, 2**63 - 2), (0.1, 0.1 + 1e-17 * 2), ("a", "a "),
                                      ("a", "A"), ("a", "a\0"), ("é", "e\u0301"), (b"", ""), (None, ""), (0, None)])
def test_values_that_nearly_agree_are_others(keep, compare, old, new):
    comparison = compare(keep("id x", [(1, old)]), keep("id x", [(1, new)]))
    kept = int(old == new)
    assert numbers(comparison) == (1, 1, kept, 1 - kept, 0, 0)


@pytest.mark.parametrize("old, new, survives", [
    (1, 1.0, True), (1.0, 1, True), (1.5, 1, False), (2**53 + 1, float(2**53), False), (2**63 - 1, 2.0**63, False),
    (7, "7", True), ("7", 7, True), ("007", 7, False), ("7 ", 7, False), ("+7", 7, False), ("7.0", 7, False),
    ("7.0", 7.0, True), ("7", 7.0, True), (7.0, "7.0", True), (7.0, "7", True),
    (0.1 + 0.2, "0.3", False), (1e300, "1.0e+300", True),
    (2**53 + 1, "9007199254740993", True), (2**53 + 1, "9007199254740992", False), (float("inf"), "Inf", True),
    ("abc", 0, False), ("a", b"a", True), (b"a", "a", True), (b"a\xff", INVALID, True),
    (b"\xff", INVALID, False), (7, b"7", True), (b"7", 7, True),
    ("2026-01-02", 2026, False), ("", 0, False), ("é", b"\xe9", False),
])
def test_a_change_of_type_keeps_the_values_that_survive_it(keep, compare, old, new, survives):
    before, after = keep("id x:OLD", [(1, old), (2, None)]), keep("id x:NEW", [(1, new), (2, None)])
    assert column(compare(before, after), "x") == ColumnLedger("x", "x", kept=int(survives), changed=int(not survives))
    loose = compare(keep("x:OLD", [(old,)], ""), keep("x:NEW", [(new,)], ""))
    assert numbers(loose) == (1, 1, int(survives), 0, int(not survives), int(not survives))
    keyed = compare(keep("x:OLD y", [(old, 1)], "x"), keep("x:NEW y", [(new, 1)], "x"))
    assert numbers(keyed) == numbers(loose)


def test_null_is_a_loss_one_way_and_filled_the_other(keep, compare):
    before = keep("id x", [(1, "a"), (2, None), (3, None), (4, "d"), (5, "e")])
    comparison = compare(before, keep("id x", [(1, None), (2, "b"), (3, None), (4, "x"), (6, "new")]))
    assert column(comparison, "x") == ColumnLedger("x", "x", kept=0, changed=1, lost=2, filled=2, invented=1)
    assert numbers(comparison) == (5, 5, 1, 3, 1, 1)
    assert filled_with(comparison, "x", "x") == [("b", 1)]
    assert sample_changes(comparison, "x", "x") == [("id=1", "a", None), ("id=4", "d", "x")]


# ---- which row is which

def test_all_columns_of_a_composite_key_tell_a_row(keep, compare):
    before = keep("a b x", [(1, 1, "p"), (1, 2, "q"), (2, 1, "r")], "a b")
    comparison = compare(before, keep("b a x", [(1, 1, "p"), (1, 2, "r2"), (2, 2, "q")], "a b"))
    assert numbers(comparison) == (3, 3, 1, 1, 1, 1)
    assert differences(comparison) == [
        ((1, 2), "b", 2, None), ((1, 2), "a", 1, None), ((1, 2), "x", "q", None), ((2, 1), "x", "r", "r2"),
        ((2, 2), "b", None, 2), ((2, 2), "a", None, 2), ((2, 2), "x", None, "q")]


@pytest.mark.parametrize("keys", [[1, "1", 1.0, b"1"], [2**53, 2**53 + 1, float(2**53), "9007199254740992"]])
def test_keys_of_several_kinds_stay_several(keep, compare, keys):
    before = keep("id x", [(key, place) for place, key in enumerate(keys)])
    comparison = compare(before, keep("id x", [(keys[0], 0), (keys[1], "other")]))
    assert numbers(comparison) == (4, 2, 1, 1, 2, 0)
    rows, told, values = lost_for_good(comparison, None)
    assert len(told) == rows == 2 and set(told) == {f"id={key!r}" for key in keys[2:]} and values == {"x": 1}


def test_a_table_without_key_is_compared_as_a_multiset(keep, compare):
    before = keep("x y", [("a", 1), ("a", 1), ("a", 1), ("b", None), (None, None)], "")
    comparison = compare(before, keep("x y", [("a", 1), ("b", None), ("b", None), (None, None), ("c", 2)], ""))
    assert numbers(comparison) == (5, 5, 3, 0, 2, 2)
    assert column(comparison, "x") == ColumnLedger("x", "x", kept=2, lost=2, filled=2)
    assert column(comparison, "y") == ColumnLedger("y", "y", kept=1, lost=2, filled=1)
    assert all(key is None for key, *_ in differences(comparison)) and len(differences(comparison)) == 7


def test_a_row_without_any_value_is_lost_and_added_like_others(keep, compare):
    before = keep("x", [(None,), (None,), (None,)], "")
    assert numbers(compare(before, keep("x", [(None,)], ""))) == (3, 1, 1, 0, 2, 0)
    assert numbers(compare(before, keep("x", [], ""))) == (3, 0, 0, 0, 3, 0)


@pytest.mark.parametrize("key", [[(None, 1), (2, 2)], [(None, 1), (None, 1)]])
def test_a_key_that_holds_null_tells_nothing_apart(keep, compare, key):
    comparison = compare(keep("id x", key), keep("id x", [*key, (3, 3)]))
    assert comparison.key == [] and numbers(comparison) == (2, 3, 2, 0, 0, 1)


def test_a_unique_column_tells_rows_apart_where_no_key_does(keep, compare):
    before = keep("code x", [("a", 1), ("b", 2)], "", uniques=(("code",),))
    assert numbers(compare(before, keep("code x", [("a", 1), ("b", 3)], ""))) == (2, 2, 1, 1, 0, 0)


def test_the_key_that_comes_tells_rows_apart_where_the_one_that_goes_is_gone(keep, compare):
    before = keep("id code x", [(1, "a", 1), (2, "b", 2)])
    comparison = compare(before, keep("code x", [("a", 3), ("c", 2)], "code"))
    assert numbers(comparison) == (2, 2, 0, 1, 1, 1)
    assert column(comparison, "id", "id") == ColumnLedger("id", "id", lost=2)


def test_a_renamed_key_is_followed_by_its_statement_or_by_its_values(keep, compare):
    before, after = keep("id x", [(1, "a"), (2, "b")]), keep("key x", [(1, "a"), (2, "b"), (3, "c")], "key")
    for comparison in (compare(before, after, {"key": "id"}), compare(before, after)):
        assert numbers(comparison) == (2, 3, 2, 0, 0, 1)
        assert column(comparison, "key") == ColumnLedger("key", "id", kept=2, filled=1)
    other = compare(before, keep("key x", [(7, "a"), (8, "b")], "key"))
    assert other.key == [] and column(other, "id") == ColumnLedger("id", "id", lost=2)


def test_a_key_that_changes_its_type_still_tells_its_rows(keep, compare):
    before = keep("id:INTEGER x", [(1, "a"), (2**53 + 1, "b"), (3, "c")])
    comparison = compare(before, keep("id:TEXT x", [("1", "a"), ("9007199254740993", "z"), ("03", "c")]))
    assert numbers(comparison) == (3, 3, 1, 1, 1, 1)
    assert [key for key, name, *_ in differences(comparison) if name == "x"] == [(3,), (2**53 + 1,), ("03",)]
    assert column(comparison, "id") == ColumnLedger("id", "id", kept=2, lost=1, filled=1)


# ---- which column is which

def test_a_renamed_column_keeps_its_values(keep, compare):
    before, after = keep("id x y", [(1, "a", "b"), (2, "c", None)]), keep("id y x", [(1, "a", "b"), (2, "c", None)])
    swapped = compare(before, after, {"y": "x", "x": "y"})
    assert numbers(swapped) == (2, 2, 2, 0, 0, 0) and count_ledger(swapped).whole
    assert numbers(compare(before, after)) == (2, 2, 0, 2, 0, 0)


def test_a_column_that_was_added_copied_and_dropped_is_carried(keep, compare):
    before = keep("id old", [(1, "a"), (2, None), (3, "c")])
    carried = compare(before, keep("id new", [(1, "a"), (2, "filled"), (3, "c")]))
    assert column(carried, "new") == ColumnLedger("new", "old", kept=2, filled=1, invented=1)
    broken = compare(before, keep("id new", [(1, "a"), (2, None), (3, "C")]))
    assert column(broken, "new") == ColumnLedger("new", "", filled=2)
    assert column(broken, "old") == ColumnLedger("old", "old", lost=2)


def test_a_carried_column_may_have_changed_its_type(keep, compare):
    carried = compare(keep("id old:INTEGER", [(1, 7), (2, 8)]), keep("id new:TEXT", [(1, "7"), (2, "8")]))
    assert column(carried, "new") == ColumnLedger("new", "old", kept=2)


def test_a_column_that_an_earlier_revision_added_can_have_taken_the_values_up(keep, compare):
    before, after = keep("id old new", [(1, "a", "a"), (2, "b", "b")]), keep("id new", [(1, "a"), (2, "b")])
    assert column(compare(before, after, added=("new",)), "new", "old") == ColumnLedger("new", "old", kept=2)


def test_two_old_columns_that_agree_by_chance_are_no_carry(keep, compare):
    before, after = keep("id old other", [(1, "a", "a"), (2, "b", "b")]), keep("id other", [(1, "a"), (2, "b")])
    assert column(compare(before, after), "old") == ColumnLedger("old", "old", lost=2)


def test_a_column_is_carried_by_one_new_column_only(keep, compare):
    before = keep("id x y", [(1, "a", "a"), (2, "b", "b")])
    comparison = compare(before, keep("id z", [(1, "a"), (2, "b")]))
    assert column(comparison, "z") == ColumnLedger("z", "x", kept=2)
    assert column(comparison, "y") == ColumnLedger("y", "y", lost=2)


def test_an_empty_column_is_carried_nowhere(keep, compare):
    comparison = compare(keep("id x", [(1, None)]), keep("id y", [(1, None)]))
    assert column(comparison, "y") == ColumnLedger("y", "") and column(comparison, "x") == ColumnLedger("x", "x")


# ---- what is lost for good

def test_without_a_way_back_all_that_is_gone_is_lost(keep, compare):
    before = keep("id x y", [(1, "a", "p"), (2, "b", None), (3, "c", "q"), (4, "d", "r")])
    up = compare(before, keep("id x", [(1, "a"), (2, "B"), (4, None)]))
    assert lost_for_good(up, None) == (1, ("id=3",), {"x": 2, "y": 2})


def test_what_the_way_back_brings_is_not_lost(keep, compare):
    before = keep("id x y", [(1, "a", "p"), (2, "b", None), (3, "c", "q"), (4, "d", "r")])
    up = compare(before, keep("id x", [(1, "a"), (2, "B"), (4, None)]))
    whole = keep("id x y", [(1, "a", "p"), (2, "b", None), (3, "c", "q"), (4, "d", "r")])
    assert lost_for_good(up, compare(before, whole)) == (0, (), {})
    some = compare(before, keep("id x y", [(1, "a", None), (2, "b", None), (3, "c", "other"), (4, None, "r")]))
    assert lost_for_good(up, some) == (0, (), {"x": 1, "y": 2})  # row 3 came back, with another y


def test_what_only_the_way_back_loses_is_not_counted_against_the_upgrade(keep, compare):
    before = keep("id x", [(1, "a"), (2, "b")])
    up, back = compare(before, keep("id x", [(1, "a"), (2, "z")])), compare(before, keep("id x", [(2, "b")]))
    assert lost_for_good(up, back) == (0, (), {})


# ---- names

HOSTILE = ["it's", 'q"', "<b>", "a;--", "sel ect", "%s", ":x", "ü", "c0", "rowid", "place", "n", "\\"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_names(snapshots, name):
    def kept(rows: list[tuple]) -> Kept:
        described = tuple(Column(each, "TEXT", True) for each in ("id", name))
        return snapshots.keep(Table(name, described, ("id",), (), ()), [batch_of(rows)])

    before, after = kept([(1, "a"), (2, "b")]), kept([(1, "<i>'\""), (2, "b")])
    comparison = Comparison(snapshots, before, after, {"id": "id", name: name})
    assert differences(comparison) == [((1,), name, "a", "<i>'\"")]
    assert column(comparison, name) == ColumnLedger(name, name, kept=1, changed=1)


# ---- which table is which

def matched(snapshots: Snapshots, before: list[Kept], after: list[Kept], moved: dict | None = None) -> list[tuple]:
    tables = [{kept.table.name: kept for kept in side} for side in (before, after)]
    found = match_tables(snapshots, *tables, [], moved or {}, {})
    return [entry[:2] for entry in found]


def test_a_renamed_table_is_one_table(snapshots, keep):
    old, new = keep("id x", [(1, "a")], name="old"), keep("id x", [(1, "b")], name="new")
    assert matched(snapshots, [old], [new], {"new": "old"}) == [("old", "new")]
    assert matched(snapshots, [old], [new]) == [(None, "new"), ("old", None)]


def test_a_table_that_holds_every_row_of_one_that_went_is_that_one(snapshots, keep):
    old = keep("id x", [(1, "a"), (2, "b")], name="old")
    whole = keep("id x more", [(1, "a", 1), (2, "b", 2), (3, "c", 3)], name="new")
    assert matched(snapshots, [old], [whole]) == [("old", "new")]
    assert matched(snapshots, [old], [keep("id", [(1,), (2,)], name="new")]) == [(None, "new"), ("old", None)]
    assert matched(snapshots, [old], [keep("id x", [], name="new")]) == [(None, "new"), ("old", None)]


def test_a_table_under_the_name_of_another_is_the_one_that_was_renamed(snapshots, keep):
    one, two = keep("id x", [(1, "a")], name="one"), keep("id x", [(2, "b")], name="two")
    assert matched(snapshots, [one, two], [keep("id x", [(2, "b")], name="one")], {"one": "two"}) == [
        ("one", None), ("two", "one")]


def test_empty_tables_that_come_and_go_are_two(snapshots, keep):
    assert matched(snapshots, [keep("id", [], name="a")], [keep("id", [], name="b")]) == [("a", None), (None, "b")]
