"""Layers of a network: ``lab.layers``."""

from convjax.lab import layers as layers
