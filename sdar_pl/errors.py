"""The one exception that a user is meant to read: cli.py prints it as one line and exits with status 2."""

from __future__ import annotations


class UserError(Exception):
    """An error in the user's input. Its message names what is wrong, where (file or key) and what to do."""
