"""Errors that a user can mend: one sentence (what, where, what to do) and an exit code, never a traceback."""

from system.text import one_line


class UserError(Exception):
    """A run cannot go on: a data set, model or neighbor file is missing or does not fit, a device is absent."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))  # file names, keys and words of a command line may hold anything


class ConfigError(UserError):
    """The command line or the config itself is wrong."""

    exit_code = 2


class NothingConfidentError(UserError):
    """Self-labeling has nothing to learn from: no image is as confident as it demands."""
