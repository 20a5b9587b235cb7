"""`python -m latestart`, the same as the command `latestart`."""

from .cli import app

app()
