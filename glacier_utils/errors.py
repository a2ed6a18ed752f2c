"""The one exception that users are meant to read."""

from __future__ import annotations


class GlacierError(Exception):
    """A mistake that a user can mend.

    The message is one line: the file or value, what is wrong with it, and what to do. The command
    line prints it without a traceback and exits with status 2.
    """


def plain(text: object) -> str:
    """Return text on one line without control characters, which could change a terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text))
