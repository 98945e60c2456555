"""The one exception that a user is meant to read: cli.py prints it as one line and exits with status 2."""

from __future__ import annotations


class UserError(Exception):
    """Something in the user's input is wrong. The message says what, where (file or key) and what to do."""
