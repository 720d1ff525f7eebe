"""The one exception for a user's mistake: one line that says what, where and what to do."""


class InputError(ValueError):
    """Raised for input that can't be used: a bad configuration, file, layout or environment.

    The command line prints the text as one line and exits with status 2; nothing else is printed.
    """
