"""Who holds a lock in this very process: found among all of its objects, whatever these are."""
import weakref

from appkit.databases.holders import Blocker, describe


def test_what_has_died_behind_a_weak_proxy_is_passed_over():
    dead = [weakref.proxy(set())]
    blocker = Blocker(1, "", "idle in transaction", "SELECT 1", None, None, "post")
    assert describe([blocker], lambda driver: None) == (
        "In the way on post: pid 1, idle in transaction, its last query: SELECT 1. "
        "Let it end its transaction, or end it.")
    assert len(dead) == 1
