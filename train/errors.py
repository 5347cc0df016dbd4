"""The one way in which a run ends for a reason that its user can mend."""


class RecipeError(Exception):
    """A user's mistake, in one sentence: what, where, and what was expected. Ends with exit code 2, no traceback."""
