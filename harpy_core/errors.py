"""The one error a user is meant to read."""


class InputError(ValueError):
    """Bad input, told in one line: the thing, its value and the remedy."""
