"""Leaving the loggers of a process as they were, and being heard among them."""
import logging
from collections.abc import Iterable


class Loggers:
    """The state of every logger, to be put back.

    The fileConfig of an env.py disables those that exist, and closes their handlers.
    """

    def __init__(self, soon: Iterable[str] = ()) -> None:
        for name in soon:
            logging.getLogger(name)  # fileConfig is about to make it: so its untouched state is known too
        known = [logging.root, *(logger for logger in logging.root.manager.loggerDict.values()
                                 if isinstance(logger, logging.Logger))]
        self._states = [(logger, logger.level, logger.disabled, logger.propagate, list(logger.handlers))
                        for logger in known]
        self._handlers = {handler for *_, handlers in self._states for handler in handlers}
        self._files = [handler for handler in self._handlers if getattr(handler, "stream", None) is not None
                       and isinstance(handler, logging.FileHandler)]

    def restore(self) -> None:
        """Put every logger back; may be called more than once."""
        added = set()
        for logger, level, disabled, propagate, handlers in self._states:
            added.update(set(logger.handlers) - self._handlers)
            logger.setLevel(level)
            logger.disabled, logger.propagate, logger.handlers = disabled, propagate, list(handlers)
        for handler in added:
            handler.close()
        for handler in self._files:
            if handler.stream is None:
                handler.mode = "a"  # closed by fileConfig: mode "w" would never open again, or empty the file


def warn(message: str) -> None:
    """Log a warning about a migration while it runs."""
    log = logging.getLogger("appkit.migrate")
    log.disabled = False  # by the fileConfig of env.py, which disables every logger that is not in alembic.ini
    log.warning("%s", message)
