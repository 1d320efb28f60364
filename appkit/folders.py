"""Private folders for copies of production data: only their owner reads them, none outlives its process for long."""
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path

_NAME = "appkit-private-"


class PrivateFolder:
    """A folder that only its owner can read, deleted when closed, forgotten, or at the interpreter's end.

    A lock on it that dies with the process tells a folder in use from one that a killed process left behind.
    """

    def __init__(self) -> None:
        sweep()
        # Born under another name: nobody sweeps it before it is locked.
        born = tempfile.mkdtemp(prefix="appkit-new-")
        self._lock = os.open(born, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.path = Path(born).with_name(_NAME + Path(born).name.removeprefix("appkit-new-"))
        os.rename(born, self.path)
        self.close = weakref.finalize(self, _remove, self.path, self._lock, os.getpid())


def sweep() -> None:
    """Delete the private folders that killed processes of this user left behind."""
    for path in Path(tempfile.gettempdir()).glob(_NAME + "*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        except OSError:
            continue  # gone meanwhile, or another user's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_uid == os.getuid():
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass  # a living process holds it
        finally:
            os.close(lock)


def _remove(path: Path, lock: int, owner: int) -> None:
    if os.getpid() != owner:  # a forked child forgets it without taking it away
        return
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
