"""How findings are said: what each would do, and what to do instead."""

THREE_STEPS = {
    "not null": "In three steps: 1. a revision that leaves the column nullable; 2. one that fills it, "
                "op.execute(\"UPDATE {table} SET {column} = … WHERE {column} IS NULL\"); 3. one that sets "
                "nullable=False, when no NULL is left.",
    "unique": "In three steps: 1. find the rows that share a value and decide which keeps it; 2. a revision that "
              "changes or merges the others; 3. one that adds the unique constraint.",
    "check": "In three steps: 1. look at the rows that break the rule; 2. a revision that corrects them; "
             "3. one that adds the check.",
    "cast": "In three steps: 1. a revision that adds a column of the new type; 2. one that converts each value into "
            "it, as you want those converted that do not fit; 3. one that drops the old column and renames the new "
            "one.",
    "foreign key": "In three steps: 1. find the rows whose parent is missing; 2. a revision that deletes them, or "
                   "points them elsewhere; 3. one that adds the constraint.",
    "parent": "DROP TABLE deletes the table's rows first, and these rows refer to them while foreign keys are on. If a "
              "batch recreates the table, nothing is wrong with them: use appkit.Migrate, which switches foreign keys "
              "off for the migration and checks them before the commit. If the table is meant to go: 1. look at these "
              "rows; 2. repoint or delete them in a revision before; 3. then drop the table.",
}
ACCEPTED = "Nothing, as long as the reason given in the revision file holds."
CORRECT = "Correct the revision and rehearse again."
HALF_APPLIED = ("The failed revision leaves the database between two revisions: it can neither be run again nor taken "
                "back.",
                "On SQLite use appkit.Migrate in place of flask_migrate.Migrate: it makes migrations atomic. Where a "
                "statement commits by itself (MariaDB's DDL, an autocommit_block) write one per revision, so that it "
                "can be run again: IF NOT EXISTS, IF EXISTS.")
DIES = ("Each statement that changes the schema is committed with it here: a process that is killed, or a statement "
        "that fails, leaves the database between two revisions.")
NOT_WATCHED = ("something ran past SQLAlchemy: on its driver's connection, or on one of its own",
               "All rows were compared, so that no loss is missed. Its seconds, its locks and who waits are not known.",
               "To have it watched, run it by op.execute(), or on op.get_bind().")
CHILDREN_GONE = ("A batch recreates the table by DROP TABLE, which deletes its rows first while foreign keys are on. "
                 "Use appkit.Migrate, which switches them off for the migration and checks them before the commit; or, "
                 "where rows were deleted on purpose, delete these on purpose too.")
CHILDREN_NULLED = ("Use appkit.Migrate, which switches foreign keys off for the migration and checks them before the "
                   "commit.")
KEEP_ROWS = "Keep the rows, or write a downgrade that brings them back, or accept the loss in the revision file."
KEEP_COLUMN = ("Keep the column until its values are copied elsewhere, or write a downgrade that brings them back, or "
               "accept the loss in the revision file.")
KEEP_VALUES = ("Convert the values yourself before the change, with op.execute(\"UPDATE …\"), or write a downgrade "
               "that brings them back, or accept the change in the revision file.")
RENAMED_TABLE = ("Table {new} appears empty in the same revision. If it is {old} under a new name, use "
                 "op.rename_table({old!r}, {new!r}) in place of create and drop.")
RENAMED_COLUMN = ("Column {new} appears in the same revision: this is how a rename looks that was written as drop and "
                  "add. To keep the values: batch_op.alter_column({old!r}, new_column_name={new!r}), and the reverse "
                  "in the downgrade.")
PERHAPS_RENAMED = ("The columns {new} appear in the same revision. If one of them is {old} under a new name, write it "
                   "as batch_op.alter_column({old!r}, new_column_name=…), and the reverse in the downgrade.")
TAKEN_ALONG = ("A trigger, or the foreign key to a table whose rows were deleted, took these rows along. If that is "
               "meant, delete them in the revision by name, and accept the loss in the revision file.")
OBJECTS_GONE = "What no operation of the revision announced is gone; the database no longer enforces or does it."
_AGAIN = "A batch recreates the table from what SQLAlchemy can reflect of it. "
SAY_AGAIN = {
    "table": _AGAIN + "Say it again: batch_alter_table(…, table_kwargs={'sqlite_autoincrement': True}).",
    "sequence": "Set it again after the batch: op.execute(\"UPDATE sqlite_sequence SET seq = … WHERE name = …\").",
    "column": _AGAIN + "Say it again in the batch: alter_column(…, type_=sa.String(…, collation=…), server_default=…).",
    "foreign key": _AGAIN + "Give batch_alter_table a naming_convention, drop the key by the name that follows from "
                            "it, and create it again with its ondelete.",
    "index": "Create it again after the batch, with op.create_index or op.execute(\"CREATE INDEX …\").",
    "trigger": "Create it again after the batch: op.execute(\"CREATE TRIGGER …\").",
    "other": _AGAIN + "Say it again in the revision: batch_alter_table(…, table_args=(sa.CheckConstraint(…),)).",
}
NULLS_FILLED = ("Nobody entered these values; afterwards nothing tells them from real ones.",
                "Make sure that the value is true of these rows, or leave them NULL.")
DEFAULT_FILLED = (NULLS_FILLED[0],
                  "Make sure that the default is true of the rows that are there, not only of new ones.")
REFUSES = ("Once applied, this revision cannot be taken back.",
           "Write a downgrade that runs, or accept in the revision file that there is no way back.")
SECOND_TIME = ("After a downgrade the upgrade cannot be run again.",
               "Let the downgrade undo all that the upgrade does.")
LOSSY = ("The downgrade does not restore the schema.", "Let the downgrade undo all that the upgrade does.")
SCHEMA_ONLY = ("The downgrade restores the schema, but not what stood in it.",
               "Keep what the downgrade needs until nobody will go back, or accept it in the revision file.")
OTHERWISE = ("Going back and up again does not end where the first upgrade ended.",
             "Make the revision give the same result each time.")
WAITS = "While that is so {who} of this table wait, longer than the {patience:g} s that was said to be bearable."
REWRITTEN = "The table is locked while every row is written anew: the time grows with the rows."
SCANNED = "Every row is read while others wait for the table: the time grows with the rows."
INVALID_INDEX = ("It is never used by a query and enforces nothing that is there, but costs every write; IF NOT EXISTS "
                 "takes it for the one that is wanted.",
                 "Drop it and build it again, and see why building it failed.")
