"""Hearing of the connections that a driver opens, past SQLAlchemy too."""
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

Heard = dict[str, Callable[[str], None]]


@contextmanager
def hear_drivers(doors: Iterable[tuple[str, str]], heard: Heard, place_behind: Callable[[Any], str]) -> Iterator[None]:
    """Call a function for every connection that is opened to a place, as long as the block runs; it may refuse.

    Parameters
    ----------
    doors
        Where a driver opens connections: the module or class that has it, as a path of names, and its name there. A
        driver that is not loaded is passed over.
    """
    with ExitStack() as stack:
        for owner, name in doors:
            if found := _find(owner):
                stack.callback(setattr, found, name, vars(found)[name])
                setattr(found, name, _hearing(vars(found)[name], heard, place_behind))
        yield


def _find(path: str) -> Any:
    module, _, inside = path.partition(":")
    found = sys.modules.get(module)
    for name in inside.split(".") if inside and found else ():
        found = getattr(found, name)
    return found


def _hearing(door: Any, heard: Heard, place_behind: Callable[[Any], str]) -> Any:
    open_ = door.__func__ if isinstance(door, classmethod) else door

    @wraps(open_)
    def connect(*arguments: Any, **options: Any) -> Any:
        opened = open_(*arguments, **options)
        connection = arguments[0] if opened is None else opened  # a method that opens the connection whose it is
        hear = heard.get(place_behind(connection))
        if hear:
            try:
                hear("A connection")
            except BaseException:
                connection.close()
                raise
        return opened

    return classmethod(connect) if isinstance(door, classmethod) else connect
