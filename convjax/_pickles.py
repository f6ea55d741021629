"""What readers of pickles share: none imports what a pickle names, and none lets it grow."""

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any


class Call:
    """A function that a pickle may call."""

    def __init__(self, call: Callable[..., Any]):
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function: it is damaged")


def check_numbers(file: io.BytesIO, size: int) -> None:
    """Read to a pickle's end; refuse one that numbers more objects than it has bytes.

    The unpickler makes room for as many objects as the largest number says.
    """
    for operation, argument, _ in pickletools.genops(file):
        if operation.name.endswith("PUT") and int(argument or 0) > size:
            raise pickle.UnpicklingError("it numbers more objects than it has bytes")
