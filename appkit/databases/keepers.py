"""Whose a copy on a server is: its keeper is alive as long as a connection of this process is, whatever kills it."""
import os
import re
import secrets
import weakref
from contextlib import suppress
from typing import Any, Protocol

from sqlalchemy import URL

from appkit.errors import RehearsalError

_TOKEN = re.compile(r"(appkit_[0-9]+_[0-9a-f]{12})_[a-z0-9]+")


class Server(Protocol):
    """What a keeper asks of a server."""

    def hold(self, token: str) -> Any:
        """Open a connection that tells everybody on the server, as long as it lives, that a token is in use."""

    def names(self) -> list[str]:
        """Name the databases, with every token that is in use seen later than they are."""

    def held(self, token: str) -> bool:
        """Say whether somebody holds a token."""

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""


class Keeper:
    """The copies of one rehearsal on a server: dropped when it is closed, or at the interpreter's end."""

    def __init__(self, server: Any) -> None:
        self.server, self.token = server, f"appkit_{os.getpid()}_{secrets.token_hex(6)}"
        self.notes: list[str] = []  # what of the source the copy does not have
        self.texts: dict[str, bytes] = {}  # what of a saved state is no table, by its name
        self.close = weakref.finalize(self, _let_go, server, self.token, server.hold(self.token), os.getpid())
        _keepers[self.token] = self

    def end(self) -> None:
        """Drop all the copies, and let go."""
        _keepers.pop(self.token, None)
        self.close()

    def name(self, what: str) -> str:
        """Give the name of one of the copies."""
        return f"{self.token}_{what}"


_keepers: dict[str, Keeper] = {}
_adopted: dict[str, str] = {}  # tokens, by the URLs of databases that were not made here
# What a rehearsal takes in its private folders, in sizes of the database, at most; then with the way back: the rows
# before and after. The copies are on the server, which tells nobody how much room it has.
ROOM = 3, 5


def adopt(url: URL, server: Server) -> URL:
    """Take a database that is there for a copy: what is saved of it is kept beside it, and it stays in the end."""
    keeper = Keeper(server)
    _adopted[_told(url)] = keeper.token
    return url


def _told(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _token(url: URL) -> str | None:
    return token_of(url.database) or _adopted.get(_told(url))


def keeper_of(url: URL) -> Keeper:
    """Give the keeper of a copy."""
    token = _token(url)
    if token not in _keepers:
        raise RehearsalError(f"The database {url.database!r} is no private copy of this process.")
    return _keepers[token]


def token_of(name: str | None) -> str | None:
    """Give the token in a copy's name; None where it is no name of a copy."""
    found = _TOKEN.fullmatch(name or "")
    return found and found[1]


def place_asked(_arguments: tuple, _options: dict) -> None:
    """Say nothing: where a connection leads is known once it is there."""


def notes_of(url: URL) -> list[str]:
    """Say what of the source a copy does not have."""
    return list(keeper_of(url).notes)


def drop_copies(url: URL) -> None:
    """Drop every database that belongs with a copy."""
    keeper = _keepers.get(_token(url))
    if keeper:
        keeper.end()
    _adopted.pop(_told(url), None)


def drop_copy(url: URL) -> None:
    """Drop one private copy, and none that belong with it, unless it is gone already, or was not made here."""
    keeper = _keepers.get(token_of(url.database))
    if keeper:
        keeper.server.drop(url.database)


def sweep(server: Any) -> None:
    """Drop the copies that killed processes left behind: those with a token that nobody holds."""
    left = [name for name in server.names() if token_of(name)]
    held = {token: server.held(token) for token in {token_of(name) for name in left}}
    for name in left:
        if not held[token_of(name)]:
            with suppress(server.Error):  # another user's, or another process drops it just now
                server.drop(name)


def _let_go(server: Any, token: str, connection: Any, owner: int) -> None:
    if os.getpid() != owner:  # a forked child forgets it without taking it away
        return
    with suppress(server.Error, RehearsalError):  # gone with its server
        for name in server.names():
            if token_of(name) == token:
                server.drop(name)
    with suppress(server.Error):
        connection.close()
