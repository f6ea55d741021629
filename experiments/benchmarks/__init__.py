"""Benchmarks against other frameworks, and what they share: timing, PyTorch's process, reports."""
