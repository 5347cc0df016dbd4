"""The one exception that a user of data/ is meant to read."""


class DataError(Exception):
    """A user's mistake in one sentence: what is wrong, where, and what to do.

    The command line prints it to stderr and exits with 2. Anything else that escapes is our bug and keeps its
    traceback.
    """
