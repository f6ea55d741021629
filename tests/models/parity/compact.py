"""JSON for the goldens: no blanks, twelve significant digits, a line for each outermost entry."""

import json
from pathlib import Path

HERE = Path(__file__).parent


def write(file, tree):
    entries = ((k, json.dumps(rounded(v), separators=(",", ":"))) for k, v in tree.items())
    lines = (f'"{key}":{text}' for key, text in entries)
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def rounded(tree):
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [rounded(value) for value in tree]
    return float(f"{tree:.12g}") if isinstance(tree, float) else tree
