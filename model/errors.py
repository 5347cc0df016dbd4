"""The exceptions that a user of model/ is meant to read."""


class ModelError(Exception):
    """A user's mistake in one sentence: what is wrong, where, and what to do. Ends with exit code 2, no traceback."""


class MissingPackageError(Exception):
    """A config asks by name for a package that is not installed: one sentence that begins with the key."""
