"""A connection as an engine would make one, without touching what its pool holds."""
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Engine

from appkit.errors import RehearsalError, reason_of


@contextmanager
def own_connection(engine: Engine) -> Iterator[Any]:
    """Open a driver's connection as an engine's pool would, without taking one from it or leaving one in it.

    Raises
    ------
    RehearsalError
        When the database cannot be reached, or does not answer in the block.
    """
    pool = engine.pool.recreate()
    try:
        with closing(pool.connect()) as pooled:
            yield pooled.driver_connection
    except engine.dialect.loaded_dbapi.Error as reason:
        raise RehearsalError(f"Cannot reach the database at {engine.url.render_as_string()}: {reason_of(reason)}."
                             ) from reason
    finally:
        pool.dispose()
