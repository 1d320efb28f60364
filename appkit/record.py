"""What a rehearsal keeps for later questions: the rows at every revision, and what it was a rehearsal of."""
from dataclasses import dataclass
from typing import Any

from flask import Flask

from appkit.databases import Entry
from appkit.folders import PrivateFolder
from appkit.progress import Work
from appkit.snapshots import Snapshots
from appkit.values import Kept


@dataclass(frozen=True)
class State:
    """The copy as it stood at one moment."""

    tables: dict[str, Kept]
    schema: dict[str, tuple[Entry, ...]]  # by table
    structure: Any  # as the database gave it, for the next look


@dataclass(frozen=True)
class Record:
    """What a rehearsal keeps for later questions: the rows, in a private folder, and what it was a rehearsal of."""

    app: Flask
    snapshots: Snapshots
    folder: PrivateFolder
    states: dict[str, State]  # by revision, the start first
    start: tuple[str, ...]  # the heads that the database stood at
    pending: tuple[str, ...]
    to: str
    files: dict[str, str]
    downgrade: bool
    notes: tuple[str, ...]  # what of the source the copy did not have
    unused: tuple[str, ...]  # what revision files accept that was not found
    work: tuple[Work, ...]
