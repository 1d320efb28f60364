"""Which table is which at two revisions, and which column continues which."""
from appkit.databases import fold
from appkit.comparison import Comparison
from appkit.ledger import TableLedger, count_ledger, gone_ledger, new_ledger
from appkit.snapshots import Snapshots
from appkit.values import Kept

Match = tuple[str | None, str | None, TableLedger, Comparison | None, tuple[str, ...]]


def match_tables(snapshots: Snapshots, before: dict[str, Kept], after: dict[str, Kept],
                 renames: list[tuple[str, dict[str, str]]], moved: dict[str, str],
                 added: dict[str, frozenset[str]]) -> list[Match]:
    """Set the tables of two moments side by side, with the ledger of each pair.

    Parameters
    ----------
    renames
        What statements said of columns: (table, {new: old}), in order.
    moved
        The tables that statements renamed: {new: old}, folded.
    added
        The columns that this rehearsal added, by table.

    Returns
    -------
    name before, name after, ledger, comparison, and for a table that went the keys of a few rows; by name; a name is
    missing where a table came or went
    """
    partners = _renamed(before, after, moved)
    new = [name for name in after if name not in partners.values()]
    found = []
    for name in before:
        other = partners.get(name) or _find_heir(snapshots, before[name], {each: after[each] for each in new}, renames)
        if other in new:
            new.remove(other)
        if other is None:
            found.append((name, None, gone_ledger(before[name]), None, snapshots.sample_keys(before[name])))
        else:
            with snapshots.comparing(before[name], after[other]):
                comparison = _compare(snapshots, before[name], after[other], renames, added.get(name, frozenset()))
                found.append((name, other, count_ledger(comparison), comparison, ()))
    found += [(None, name, new_ledger(after[name]), None, ()) for name in new]
    return sorted(found, key=lambda entry: entry[1] or entry[0])


def match_untouched(snapshots: Snapshots, kept: Kept) -> Match:
    """Set a table that nothing wrote to beside itself."""
    name = kept.table.name
    comparison = Comparison(snapshots, kept, kept, {column: column for column in kept.names})
    return name, name, count_ledger(comparison), comparison, ()


def _renamed(before: dict[str, Kept], after: dict[str, Kept], moved: dict[str, str]) -> dict[str, str]:
    """Give for each table the one that it became: the one that statements made of it, else the one of its name."""
    names = {fold(name): name for name in before}
    origins = {other: names.get(moved[fold(other)]) for other in after if fold(other) in moved}
    partners = {origin: other for other, origin in origins.items() if origin is not None}
    taken = set(partners.values())
    partners.update({name: name for name in before if name in after and name not in partners and name not in taken})
    return partners


def _compare(snapshots: Snapshots, before: Kept, after: Kept, renames: list[tuple[str, dict[str, str]]],
             added: frozenset[str]) -> Comparison:
    names = {fold(before.table.name), fold(after.table.name)}
    lineage = _trace(before.names, after.names, [pairs for table, pairs in renames if fold(table) in names])
    return Comparison(snapshots, before, after, lineage, added)


def _find_heir(snapshots: Snapshots, gone: Kept, others: dict[str, Kept],
               renames: list[tuple[str, dict[str, str]]]) -> str | None:
    """Give the table that holds every row and value of one that went: the same under another name."""
    for name in sorted(others):
        ledger = count_ledger(_compare(snapshots, gone, others[name], renames, frozenset()))
        if 0 < ledger.before == ledger.kept and not any(column.lost for column in ledger.columns):
            return name
    return None


def _trace(before: list[str], after: list[str], renames: list[dict[str, str]]) -> dict[str, str]:
    """Give for each column afterwards the one before that it continues. SQL names know no case."""
    now = {fold(name): name for name in before}
    for pairs in renames:
        origins = {fold(new): now.get(fold(old)) for new, old in pairs.items()}
        for old in pairs.values():
            now.pop(fold(old), None)
        now.update({new: origin for new, origin in origins.items() if origin is not None})
    return {name: now[fold(name)] for name in after if fold(name) in now}
