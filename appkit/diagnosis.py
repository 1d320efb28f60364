"""The rules of `diagnose`: facts about an app's history and database in, what is wrong with them out."""
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_TEMPORARY = "_alembic_tmp_"  # Alembic's batch mode builds the new table under this name


class Problem(NamedTuple):
    """One thing that is wrong: a row of `diagnose`."""

    problem: str
    where: str
    evidence: str
    advice: str


class History(NamedTuple):
    """What the folder of the migrations says."""

    folder: str  # as text to show: a relative one as it was given, an absolute one by its last name
    relative: bool
    missing: tuple[str, ...]  # what a folder of migrations must have and this one has not
    warnings: tuple[str, ...]  # Alembic's, on reading it
    failure: str  # why it cannot be read; empty when it can
    heads: tuple[str, ...]
    parents: dict[str, tuple[str, ...]]  # every revision, with those that it follows or depends on
    stale: tuple[str, ...]  # revision files whose compiled form is of another text


class Place(NamedTuple):
    """What the database says."""

    failure: str  # why it cannot be reached; empty when it can
    version_table: str
    stamped: bool  # whether there is a version table at all
    current: tuple[str, ...]
    tables: tuple[str, ...]  # without the version table
    orphans: tuple[tuple[str, str], ...]  # table, what is wrong with the rows it refers to


def find_problems(history: History, place: Place, *, models: frozenset[str],
                  left_out: frozenset[str]) -> list[Problem]:
    """List what is wrong, in the order in which to cure it.

    `models` are the tables that the models have, `left_out` those that the app itself keeps out of autogenerate.
    """
    found = [*_folder(history), *_revisions(history), *_reach(place)]
    if not place.failure:
        found += [*_stamp(history, place), *_leftovers(place), *_orphans(place)]
        found += _models(history, place, models, left_out)
    return found


def _folder(history: History) -> Iterator[Problem]:
    if history.missing:
        yield Problem("no-migrations", history.folder, f"not there: {', '.join(history.missing)}",
                      "Make it with `flask db init`, or give Migrate(directory=…) the folder that has it.")
    if history.relative and history.missing:
        yield Problem("relative-directory", history.folder, "looked for in the working directory, and not there",
                      "Give Migrate(directory=…) an absolute path: a notebook runs in its own folder.")


def _revisions(history: History) -> Iterator[Problem]:
    absent = [text for text in history.warnings if "is not present" in text]
    for text in absent:
        yield Problem("missing-revision", history.folder, text,
                      "Bring the deleted file back, or give the one that refers to it another down_revision.")
    for text in history.warnings:
        if "more than once" in text:
            yield Problem("duplicate-revision", history.folder, text,
                          "Alembic runs only one of the two files: give one another revision, and what follows it too.")
    if history.failure and not absent and not history.missing:
        yield Problem("unreadable-history", history.folder, history.failure,
                      "No command can run before the revision files can be read.")
    if len(history.heads) > 1:
        yield Problem("several-heads", history.folder, ", ".join(history.heads),
                      "`flask db merge heads` makes one of them; until then `upgrade` stops, or does one branch.")
    for name in history.stale:
        yield Problem("stale-bytecode", name, "its compiled file is of another text, but the same time and size",
                      "Delete the __pycache__ folder of the revisions: Python runs the old text.")


def _reach(place: Place) -> Iterator[Problem]:
    if place.failure:
        yield Problem("unreachable", "database", place.failure, "Check the URL, and that the server runs.")


def _stamp(history: History, place: Place) -> Iterator[Problem]:
    known = history.parents
    for revision in [] if history.failure else [revision for revision in place.current if revision not in known]:
        yield Problem("unknown-revision", place.version_table, f"the database is at {revision}; no file has it",
                      "Bring the file back. If it is gone, `flask db stamp` the revision that the schema is at.")
    for revision in place.current:
        above = [other for other in place.current if revision in _ancestors(other, known)]
        if above:
            yield Problem("overlapping-revisions", place.version_table,
                          f"{revision} stands beside {above[0]}, which follows it",
                          f"Delete the row {revision}: an upgrade would go astray.")
    tables = [name for name in place.tables if not name.startswith(_TEMPORARY)]
    if tables and not place.current:
        row = "has no row" if place.stamped else "is not there"
        yield Problem("not-stamped", place.version_table, f"it {row}, but the database has {_listed(tables)}",
                      "`flask db stamp` the revision that these tables are at: `upgrade` would create them again.")


def _leftovers(place: Place) -> Iterator[Problem]:
    for name in place.tables:
        if name.startswith(_TEMPORARY):
            yield Problem("leftover-table", name, f"a migration of {name[len(_TEMPORARY):]} stopped half way",
                          "See that the table itself has its rows, then drop this one: the next migration of it fails.")


def _orphans(place: Place) -> Iterator[Problem]:
    for table, evidence in place.orphans:
        yield Problem("broken-foreign-key", table, evidence,
                      "Mend or delete them before a migration copies this table.")


def _models(history: History, place: Place, models: frozenset[str], left_out: frozenset[str]) -> Iterator[Problem]:
    tables = [name for name in place.tables if not name.startswith(_TEMPORARY)]
    if not models:
        yield Problem("no-models", "models", f"the metadata has no table, the database has {_listed(tables)}",
                      "Import the module of the models where the app is made: `migrate` sees only what is imported.")
    elif not history.failure and place.current and set(place.current) == set(history.heads):
        # Behind the head, a pending revision may be about to drop them; `migrate` does not run there either.
        for name in tables:
            if name not in models | left_out:
                yield Problem("unknown-table", name, "the database has it, the models do not",
                              "The next `migrate` drops it. Import its model, or leave it out by include_object.")


def _ancestors(revision: str, parents: dict[str, tuple[str, ...]]) -> set[str]:
    found: set[str] = set()
    waiting = list(parents.get(revision, ()))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += parents.get(name, ())
    return found


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:5])
    return (shown + f" and {len(names) - 5} more" if len(names) > 5 else shown) or "none"
