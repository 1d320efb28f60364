"""The well-known ways to change a table on PostgreSQL without stopping its users."""
import re

_WAYS = [(re.compile(pattern, re.IGNORECASE | re.DOTALL), way) for pattern, way in (
    (r"\bSET\s+NOT\s+NULL\b",
     "In steps: 1. a revision that adds CHECK (column IS NOT NULL) NOT VALID; 2. one that runs ALTER TABLE … VALIDATE "
     "CONSTRAINT, which stops nobody; 3. one that sets NOT NULL, which then scans nothing, and drops the check."),
    (r"\bFOREIGN\s+KEY\b|\bREFERENCES\b",
     "In two revisions: 1. add the constraint with postgresql_not_valid=True (for a new column: add the column without "
     "it first); 2. op.execute(\"ALTER TABLE … VALIDATE CONSTRAINT …\"), which stops nobody."),
    (r"^\s*CREATE\s+(UNIQUE\s+)?INDEX\b",
     "Build it without stopping writers: with op.get_context().autocommit_block(): op.create_index(…, "
     "postgresql_concurrently=True). If it fails, drop the INVALID index that it leaves before trying again."),
    (r"\bADD\s+(CONSTRAINT\s+\S+\s+)?(UNIQUE|PRIMARY\s+KEY)\b",
     "In two revisions: 1. a unique index built CONCURRENTLY, in an autocommit_block; 2. ALTER TABLE … ADD CONSTRAINT "
     "… UNIQUE USING INDEX …, which takes a moment."),
    (r"^\s*DROP\s+INDEX\b",
     "Drop it without stopping anybody: with op.get_context().autocommit_block(): op.drop_index(…, "
     "postgresql_concurrently=True)."),
    (r"\bADD\s+(CONSTRAINT\b.*)?CHECK\b",
     "In two revisions: 1. add the check with postgresql_not_valid=True; 2. op.execute(\"ALTER TABLE … VALIDATE "
     "CONSTRAINT …\"), which stops nobody."),
    (r"\bTYPE\b",
     "In steps: 1. a revision that adds a column of the new type, and a trigger or code that writes both; 2. fill it "
     "in batches, each committed by itself; 3. one that drops the old column and renames the new one."),
    (r"\bADD\s+(COLUMN\s+)?.*\b(DEFAULT|SERIAL|BIGSERIAL|GENERATED)\b",
     "In steps: 1. add the column without a default, nullable; 2. set the default, for new rows; 3. fill the old rows "
     "in batches, each committed by itself; 4. NOT NULL by a validated check."),
    (r"^\s*(UPDATE|DELETE)\b",
     "Do it in batches by key, each committed by itself, outside of the migration's transaction, before the revision "
     "that needs it."),
    (r"^\s*(VACUUM|CLUSTER|REINDEX|REFRESH)\b",
     "Use the way that stops nobody: REINDEX CONCURRENTLY, REFRESH MATERIALIZED VIEW CONCURRENTLY, pg_repack in place "
     "of CLUSTER and VACUUM FULL."),
)]
_OTHERWISE = ("Keep the transaction short: nothing that takes time after the statement that takes the lock, a "
              "lock_timeout, and a moment when few wait.")


def advise(statement: str) -> str:
    """Give the way to do what a statement does without stopping the app."""
    return next((way for pattern, way in _WAYS if pattern.search(statement)), _OTHERWISE)
