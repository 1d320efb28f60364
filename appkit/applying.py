"""Doing to the real database what was rehearsed, and only that."""
from dataclasses import dataclass
from pathlib import Path

import flask_migrate
from alembic.script.revision import RevisionError
from alembic.util import CommandError, to_tuple

from appkit.databases import database_of, engine_of
from appkit.errors import ApplyError, reason_of
from appkit.history import current_heads
from appkit.record import Record
from appkit.standin import digest_files, read_scripts


@dataclass(frozen=True)
class Applied:
    """An upgrade of the real database, done as it was rehearsed."""

    revision: str
    backup: Path | None  # the database as it was; None where it is in memory

    def __repr__(self) -> str:
        if self.backup is None:
            return f"Applied({self.revision}; no backup: it is in memory)"
        is_dump = self.backup.suffix in (".dump", ".sql")
        place = "in the app's instance folder" if is_dump else "beside the database"
        return f"Applied({self.revision}; as it was: {self.backup.name}, {place})"


def apply(record: Record, *, blocked: list[str]) -> Applied:
    """Upgrade the real database to what was rehearsed, after a backup.

    Parameters
    ----------
    blocked
        What of the rehearsal was not safe: nothing is applied unless this is empty.

    Raises
    ------
    ApplyError
        When the rehearsal was not safe, or the database or the files are no longer those that were rehearsed; when the
        upgrade fails all the same, with the backup's place.
    """
    if blocked:
        raise ApplyError(f"This rehearsal was not safe: {', '.join(blocked)}. Correct the revisions, or accept the "
                         "findings in them, and rehearse again.")
    _check_unchanged(record)
    engine = engine_of(record.app)
    if not record.pending:
        return Applied(",".join(record.start) or "base", None)
    backup = database_of(engine).back_up(engine, ",".join(record.start) or "base", Path(record.app.instance_path))
    told = f" The database as it was is in {backup}." if backup else ""
    try:
        with record.app.app_context():
            for revision in _last(record):
                flask_migrate.upgrade(revision=revision)
    except SystemExit as stop:  # flask_migrate's way to say that Alembic refused
        reason = stop.__context__
        raise ApplyError(f"Cannot upgrade to {record.pending[-1]}: {reason}.{told}") from reason
    except Exception as reason:
        raise ApplyError(f"The upgrade to {record.pending[-1]} failed: {reason_of(reason)}.{told}") from reason
    return Applied(record.pending[-1], backup)


def _check_unchanged(record: Record) -> None:
    now = current_heads(record.app)
    if now != ", ".join(record.start):
        raise ApplyError(f"The database stands at {now or 'base'}, but the rehearsal began at "
                         f"{', '.join(record.start) or 'base'}. Rehearse again.")
    scripts = read_scripts(record.app)
    try:
        pending = [script.revision for script in
                   reversed(list(scripts.iterate_revisions(record.to, record.start, implicit_base=True)))]
        changed = [name for name, digest in digest_files(scripts, list(record.pending)).items()
                   if record.files[name] != digest]
    except (CommandError, RevisionError, OSError) as reason:
        raise ApplyError(f"The history is no longer the one rehearsed: {reason}. Rehearse again.") from reason
    if changed:
        raise ApplyError(f"Changed since the rehearsal: {', '.join(changed)}. Rehearse again.")
    if tuple(pending) != record.pending:
        raise ApplyError(f"Pending now: {', '.join(pending) or 'nothing'}; rehearsed: "
                         f"{', '.join(record.pending) or 'nothing'}. Rehearse again.")


def _last(record: Record) -> list[str]:
    """Give the revisions that end what was rehearsed: one, unless several branches were."""
    scripts = read_scripts(record.app)
    scripts_of = [scripts.get_revision(revision) for revision in record.pending]
    followed = {parent for script in scripts_of
                for parent in (*to_tuple(script.down_revision, ()), *to_tuple(script.dependencies, ()))}
    return [revision for revision in record.pending if revision not in followed]
