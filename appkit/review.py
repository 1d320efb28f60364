"""What stands between autogenerate and a revision file: no empty one, and none that drops what nobody meant to drop."""
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from alembic.operations.ops import DropTableOp, MigrationScript
from alembic.runtime.migration import MigrationContext
from flask import current_app
from sqlalchemy import Connection, func, inspect, select, table

from appkit.errors import MigrationError
from appkit.loggers import warn


class Review:
    """What stands between autogenerate and a revision file, after the hook of the user or of env.py has had its say."""

    def __init__(self, barren: list[bool], theirs: Callable | None) -> None:
        self._barren = barren  # of each database of a command: no table there, and none in the models
        self._theirs = theirs

    def __call__(self, migration: MigrationContext, revision: Any, directives: list[MigrationScript]) -> None:
        script = directives[0]
        if self._theirs is not None:
            self._theirs(migration, revision, directives)
        if not getattr(migration.config.cmd_opts, "autogenerate", False):
            if not directives and _is_empty(script):
                directives[:] = [script]  # `check` reads it: where there is none it dies with an IndexError
            return
        catalogue = _Catalogue(migration)
        self._barren.append(not catalogue.modelled and not catalogue.there)
        _review_drops(migration, catalogue, [op for each in directives for op in each.upgrade_ops_list[-1].ops
                                             if isinstance(op, DropTableOp)])
        if directives and all(map(_is_empty, directives)) and _is_last(migration, script):
            directives[:] = []
            logging.getLogger("alembic.env").info("No changes in schema detected.")
        if not directives and all(self._barren):
            warn("No model is known and the database has no table, so there is nothing to migrate. "
                  f"{_how_to_import()} before `migrate`: a model is known only once its module is imported.")


def _is_empty(script: MigrationScript) -> bool:
    return all(ops.is_empty() for ops in script.upgrade_ops_list)


def _is_last(migration: MigrationContext, script: MigrationScript) -> bool:
    """Tell whether this is the last database of a command: until then the script must stay."""
    if migration.opts.get("upgrade_token") == "upgrades":  # Alembic's default: there is only one
        return True
    return len(script.upgrade_ops_list) > len(current_app.config.get("SQLALCHEMY_BINDS") or {})


class _Catalogue:
    """The tables of a database and those of the models, as (schema, name), the default schema being None."""

    def __init__(self, migration: MigrationContext) -> None:
        inspector = inspect(migration.connection)
        target = migration.opts.get("target_metadata")
        models = [each for metadata in (target if isinstance(target, (list, tuple)) else [target])
                  for each in metadata.tables.values()]
        default = inspector.default_schema_name
        self.modelled = {(None if each.schema == default else each.schema, each.name) for each in models}
        schemas = {schema for schema, _ in self.modelled}.intersection(inspector.get_schema_names())
        names = {schema: inspector.get_table_names(schema=schema) for schema in {None, *schemas}}
        self.there = {(schema, name) for schema in names for name in names[schema]}
        versions = migration.version_table_schema
        self.there.discard((None if versions == default else versions, migration.version_table))


def _review_drops(migration: MigrationContext, catalogue: _Catalogue, drops: Iterable[DropTableOp]) -> None:
    dropped = sorted({(op.schema, op.table_name) for op in drops}, key=str)
    if not dropped:
        return
    if catalogue.there.isdisjoint(catalogue.modelled):
        known = ", ".join(sorted(_full_name(*each) for each in catalogue.modelled))
        raise MigrationError(
            f"This revision would drop every table that is there ({', '.join(_full_name(*each) for each in dropped)}), "
            f"because {f'the models know only {known}' if known else 'no model is known'}. No file was written. "
            f"{_how_to_import()} before `migrate`. If you do mean to drop them, write it by hand: `flask db revision`.")
    counted = ", ".join(f"{_full_name(*each)} ({_count_rows(migration.connection, *each)})" for each in dropped)
    warn(f"This revision drops tables that no model knows: {counted}. To keep them, delete it, and import their "
          "models before `migrate`, or leave them out by include_object.")


def _full_name(schema: str | None, name: str) -> str:
    return f"{schema}.{name}" if schema else name


def _count_rows(connection: Connection, schema: str | None, name: str) -> str:
    count = connection.scalar(select(func.count()).select_from(table(name, schema=schema)))
    return f"{count} {'row' if count == 1 else 'rows'}"


def _how_to_import() -> str:
    package = Path(current_app.root_path, "__init__.py").is_file() and current_app.import_name != "__main__"
    module = f"{current_app.import_name}.models" if package else "models"
    return f"Import the module that defines the models (`import {module}`, say) where the app is made,"
