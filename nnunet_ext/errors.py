"""The exception for all mistakes in a user's input."""


class InputError(ValueError):
    """Bad input. The message is one sentence: what was found and where, what was expected, how to fix it.

    The command line prints it without a traceback.
    """
