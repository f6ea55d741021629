"""Refusals that experiments share: lists that are empty or repeat, numbers that are too small."""

from typing import Any

import numpy as np


def check_several(config: Any, *options: str) -> None:
    """Refuse lists that are empty or name a value twice."""
    for option in options:
        values = getattr(config, option)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{option}={list(values)} must hold at least one value, none twice")


def check_least(config: Any, **least: int) -> None:
    """Refuse options below the least that they may be, and lists that are empty or repeat."""
    for option, bound in least.items():
        value = getattr(config, option)
        if isinstance(value, tuple):
            check_several(config, option)
        if np.min(value) < bound:
            raise ValueError(f"{option}={value} must be at least {bound}")
