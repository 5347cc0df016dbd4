"""The one exception that a user of model/ is meant to read."""


class ModelError(Exception):
    """A user's mistake in one sentence: what is wrong, where, and what to do. Ends with exit code 2, no traceback."""
