"""The settings under which PostgreSQL writes texts the same way in every session."""
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from appkit.databases.postgresql.naming import quote

_SETTINGS = {
    "DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "TimeZone": "UTC", "extra_float_digits": "1",
    "bytea_output": "hex", "xmlbinary": "base64", "lc_monetary": "C", "quote_all_identifiers": "off",
    "standard_conforming_strings": "on", "jit": "off",  # to compile would take longer than to read
}


@contextmanager
def fixed_settings(connection: Connection) -> Iterator[str | None]:
    """Fix what the server's texts depend on, for a while, and give the default schema.

    Names in the default schema stand alone then, all others with their schema in front.
    """
    asked = ", ".join(f"current_setting('{name}')" for name in (*_SETTINGS, "search_path"))
    schema, *values = connection.exec_driver_sql(f"SELECT current_schema(), {asked}").one()
    path = f"{quote(schema)}, pg_temp" if schema else "pg_temp"
    wanted = {**_SETTINGS, "search_path": path}
    _set(connection, wanted)
    # Outside of a transaction a setting ends with the statement that set it.
    alone = connection.exec_driver_sql("SELECT current_setting('search_path')").scalar_one() != path
    if alone:
        connection.exec_driver_sql("BEGIN")
        _set(connection, wanted)
    try:
        yield schema
    finally:
        if alone:
            connection.exec_driver_sql("ROLLBACK")
        else:
            with suppress(DBAPIError):  # in a failed transaction nothing can be set: its end sets all of it back
                _set(connection, dict(zip(wanted, values)))


def _set(connection: Connection, values: dict[str, str]) -> None:
    calls = ", ".join(f"set_config('{name}', :{name}, true)" for name in values)
    connection.execute(text(f"SELECT {calls}"), values)
