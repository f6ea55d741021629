"""JSON for the goldens: no blanks, twelve significant digits, a line for each outer entry."""

import json
from pathlib import Path

HERE = Path(__file__).parent


def write(file, tree, deep=1):
    """Write a file; the entries that lie ``deep`` dictionaries deep have a line each."""
    file.write_text(text(rounded(tree), deep) + "\n")


def text(tree, deep):
    if not deep or not isinstance(tree, dict):
        return json.dumps(tree, separators=(",", ":"))
    lines = (f"{json.dumps(key)}:{text(value, deep - 1)}" for key, value in tree.items())
    return "{\n" + ",\n".join(lines) + "\n}"


def rounded(tree):
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [rounded(value) for value in tree]
    return float(f"{tree:.12g}") if isinstance(tree, float) else tree
