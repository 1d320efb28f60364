"""Drift: what the models would create, held against what the migrations made."""
from collections.abc import Iterable, Iterator

from sqlalchemy import URL, MetaData, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from appkit.databases import Entry, open_reading
from appkit.errors import reason_of
from appkit.findings import Finding

_MODELLED = ("table", "column", "primary key", "foreign key", "unique", "check", "index")
_NAMED = ("table", "column")  # the others are compared by what they are: a name of its own is no drift
_ADVICE = "Let the models and the migrations say the same: change the one that is wrong."

# (table, kind, name, '' where it does not count) to definition, or to the definition as part of the key
_Forms = dict[tuple[str, str, str], str]


def find_drift(revision: str, models: MetaData, empty: URL, schema: dict[str, tuple[Entry, ...]]) -> list[Finding]:
    """Compare a schema with what the models create in an empty database of the same kind."""
    there = [entry for entries in schema.values() for entry in entries]
    tables = sorted({entry.table for entry in there if entry.kind == "table"})
    if not models.tables and tables:
        return [_warn(revision, "",
                      f"the models know no table, the database has {len(tables)}: {', '.join(tables[:3])}",
                      "The next `flask db migrate` would drop them all.",
                      "Import the models' module where the app is created.")]
    engine = create_engine(empty, poolclass=NullPool)
    try:
        models.create_all(engine)
    except SQLAlchemyError as reason:
        return [_warn(revision, "", f"not observed: the models cannot create their tables here: {reason_of(reason)}",
                      "Whether models and migrations agree is unknown.", "Look at the models' types and defaults.")]
    with open_reading(engine) as (connection, database):
        wanted = database.read_catalogue(connection)
    return list(_differing(revision, _forms(wanted), _forms(there)))


def _forms(entries: Iterable[Entry]) -> _Forms:
    return {(entry.table, entry.kind, entry.name if entry.kind in _NAMED else entry.definition): entry.definition
            for entry in entries if entry.kind in _MODELLED}


def _differing(revision: str, models: _Forms, there: _Forms) -> Iterator[Finding]:
    lone = {key[0] for key in models.keys() ^ there.keys() if key[1] == "table"}
    for key in sorted(models.keys() | there.keys()):
        table, kind, name = key
        if models.get(key) == there.get(key) or table in lone and kind != "table":
            continue
        where = f"{table}.{name}" if kind == "column" else table
        told = "the table" if kind == "table" else f"{kind} {name}"
        if key in models and key in there:
            yield _warn(revision, where,
                        f"{told}: {there[key] or 'plain'} in the database, {models[key] or 'plain'} in the models",
                        "The next `flask db migrate` may want to change it.")
        elif key in there:
            yield _warn(revision, where, f"{told} is in the database, not in the models",
                        "The next `flask db migrate` will want to drop it.")
        else:
            yield _warn(revision, where, f"{told} is in the models, not in the database",
                        "The next `flask db migrate` will want to create it.")


def _warn(revision: str, where: str, evidence: str, effect: str, advice: str = _ADVICE) -> Finding:
    return Finding(revision, "warning", "drift", where, evidence, effect, advice)
