"""Slurm: to be written."""


class Slurm:
    """To be written."""

    keeps = False

    def __init__(self, *args, **kwargs):
        raise NotImplementedError
