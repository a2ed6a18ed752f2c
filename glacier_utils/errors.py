"""The one exception that users are meant to read, and how its messages are worded."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class GlacierError(Exception):
    """A mistake that a user can mend.

    The message is one line: the file or value, what is wrong with it, and what to do. The command
    line prints it without a traceback and exits with status 2.
    """


def plain(text: object) -> str:
    """Return text on one line without control characters, which could change a terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural but for 1.

    Example:
        >>> counted(1, "image"), counted(2, "image")
        ('1 image', '2 images')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def did_you_mean(value: object, known: Iterable[str], *, none: str = "there is none") -> str:
    """Return the end of a message about an unknown name: the nearest known one, or all of them.

    Args:
        value: what was given.
        known: the names there are.
        none: what to say where there are no names at all.

    Example:
        >>> did_you_mean("resnet81", ["resnet18", "resnet34"])
        "did you mean 'resnet18'?"
        >>> did_you_mean("unet", ["fpn", "linknet"])
        'known are fpn, linknet'
    """
    names = [str(name) for name in known]
    if near := difflib.get_close_matches(str(value), names, n=1):
        return f"did you mean {near[0]!r}?"
    return f"known are {', '.join(names)}" if names else none


@contextmanager
def quiet_loggers(names: Iterable[str], level: int = logging.CRITICAL + 1) -> Iterator[None]:
    """Keep libraries from logging what users are told already, as long as the block lasts.

    Args:
        names: of the loggers.
        level: what is below it is not logged; by default nothing is.
    """
    before = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in before:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, own in before.items():
            logger.setLevel(own)
