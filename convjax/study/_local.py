"""Local: to be written."""


class Local:
    """To be written."""

    keeps = False

    def __init__(self, *args, **kwargs):
        raise NotImplementedError
