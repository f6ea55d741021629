"""Weights in files and under the names of the references; public through ``convjax.models``."""
