"""Studies of gradient flow that run from the command line: ``python -m experiments``."""
