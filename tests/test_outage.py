"""Who waited, and how long: from the lock to the end of its transaction, and not in between two of them."""
from appkit.databases import Lock, Statement
from appkit.outage import find_scans, find_waits

BOTH = {"readers of t", "writers of t"}


def statement(text, began, until, waits=frozenset(), **seen):
    return Statement(text, 0.1, began=began, locks=[Lock("t", "a mode", began, until)], waits=set(waits), **seen)


def test_within_one_transaction_a_wait_lasts_from_the_first_lock_to_the_end():
    seen = [statement("weak", 1.0, 5.0, {"writers of t"}), statement("strong", 2.0, 5.0, BOTH)]
    assert [tuple(wait) for wait in find_waits(seen, {"t": 8})] == [
        ("t", "writers", 4.0, 8, "weak"), ("t", "readers and writers", 3.0, 8, "strong")]


def test_between_two_transactions_nobody_waits_and_the_longest_of_them_counts():
    seen = [statement("first", 1.0, 2.0, BOTH), statement("alone", 2.5, 90.0), statement("second", 91.0, 93.0, BOTH)]
    assert [tuple(wait) for wait in find_waits(seen, {"t": 8})] == [("t", "readers and writers", 2.0, 8, "second")]


def test_a_statement_run_many_times_each_committed_is_no_long_wait():
    again = statement("again", 1.0, 2.0, BOTH)
    again.add(statement("again", 3.0, 4.0, BOTH))
    assert [wait.seconds for wait in find_waits([again], {"t": 8})] == [1.0]


def test_a_scan_is_under_a_lock_only_while_the_lock_is_held():
    lock, later = statement("lock", 1.0, 3.0, BOTH), statement("later", 4.0, 5.0, scanned={"t": 8})
    assert list(find_scans([lock, later])) == []
    within = statement("within", 2.0, 3.0, scanned={"t": 8})
    itself = statement("itself", 6.0, 7.0, {"writers of t"}, scanned={"t": 8})
    assert list(find_scans([lock, within, later, itself])) == [("t", "within", 8), ("t", "itself", 8)]
