"""The one exception that users are meant to read."""


class GlacierError(Exception):
    """A mistake that a user can mend.

    The message is one line: the file or value, what is wrong with it, and what to do. The command
    line prints it without a traceback and exits with status 2.
    """
