"""Pictures of a folder: ``lab.pictures``."""

from convjax.lab import pictures as pictures
