"""Calls of ``convjax.lab``: its malformed command lines are those of ``commands``."""

from convjax import lab

INSIDE = "called by a question's own functions, whose columns and options the room has made"
EXEMPT = {f"lab.{name}": INSIDE for name in lab.__all__}
CALLS: dict = {}
ACCEPTED: dict[str, str] = {}
