"""The well-known ways to change a table on MariaDB without stopping its users."""
import re

_WAYS = [(re.compile(pattern, re.IGNORECASE | re.DOTALL), way) for pattern, way in (
    (r"\bFOREIGN\s+KEY\b",
     "The table is copied, and nobody writes meanwhile. Check the rows first (an anti join that finds none), then SET "
     "SESSION foreign_key_checks = 0 around the statement: it is then done in place."),
    (r"\bNOT\s+NULL\b",
     "In steps: 1. fill the NULLs in batches, each committed by itself; 2. one revision that sets NOT NULL: it is "
     "rebuilt in place while others write; give it ALGORITHM=INPLACE, LOCK=NONE, so that it fails rather than stops "
     "them."),
    (r"\b(MODIFY|CHANGE|CONVERT|CHARACTER\s+SET)\b|\bCHECK\b",
     "In steps: 1. a revision that adds a column of the new kind, which is instant, and code or triggers that write "
     "both; 2. fill it in batches, each committed by itself; 3. one that drops the old column and renames the new one, "
     "both instant. Or use pt-online-schema-change or gh-ost for the table."),
    (r"^\s*(UPDATE|DELETE|INSERT|REPLACE)\b",
     "Do it in batches by key, each committed by itself, before the revision that needs it."),
)]
_OTHERWISE = ("Give the statement ALGORITHM=INPLACE, LOCK=NONE, so that it fails rather than stops the app, and choose "
              "a moment when few wait.")


def advise(statement: str) -> str:
    """Give the way to do what a statement does without stopping the app."""
    return next((way for pattern, way in _WAYS if pattern.search(statement)), _OTHERWISE)
