"""Every exception that appkit raises on purpose.

AppkitError
├── UnknownTableError (LookupError)       a table that the database does not have
├── UnsupportedDatabaseError              a database that no file in databases/ speaks for
├── MigrationError (RuntimeError)         a migration command that must not, or cannot, go on
│   ├── OrphanedRowsError                 a migration that leaves rows pointing at nothing
│   └── BlockedError                      a lock that somebody else holds, and who that is
└── RehearsalError (RuntimeError)         a rehearsal that could not be made
    ├── SourceTouchedError                something reached for the real database during a rehearsal
    └── ApplyError                        what was rehearsed is not what would be applied now
"""


class AppkitError(Exception):
    """The root of all of them: catch this one to catch every refusal of appkit."""


class UnknownTableError(AppkitError, LookupError):
    """A table was asked for that the database does not have."""


class UnsupportedDatabaseError(AppkitError):
    """The database's dialect has no file in databases/."""


class MigrationError(AppkitError, RuntimeError):
    """A migration command must not, or cannot, go on.

    A RuntimeError, because flask_migrate reports those as one line and exit status 1.
    """


class OrphanedRowsError(MigrationError):
    """A migration would leave rows whose foreign key points at nothing."""


class BlockedError(MigrationError):
    """Somebody else holds a lock that a migration needs; the message says who."""


class RehearsalError(AppkitError, RuntimeError):
    """A rehearsal could not be made."""


class SourceTouchedError(RehearsalError):
    """Something reached for the real database while a rehearsal ran."""


class ApplyError(RehearsalError):
    """What was rehearsed is not what would be applied now."""


def reason_of(error: BaseException) -> str:
    """Give an error's kind and first line: the driver's own words, without what SQLAlchemy sets around them."""
    error = getattr(error, "orig", None) or error
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
