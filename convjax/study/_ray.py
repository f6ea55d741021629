"""Ray: to be written."""


class Ray:
    """To be written."""

    keeps = False

    def __init__(self, *args, **kwargs):
        raise NotImplementedError
