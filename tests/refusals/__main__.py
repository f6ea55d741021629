"""Make the calls of some rooms; print what went otherwise than expected, one line each."""

import importlib
import re
import sys
import traceback


def problem(call, pattern):
    """What is wrong with the outcome of a call; None where nothing is."""
    try:
        result = call()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if pattern is None:
            return f"raised {type(error).__name__}: {error}"
        if "/convjax/" not in frame.filename.replace("\\", "/"):
            return f"{type(error).__name__} was raised in {frame.filename}: {error}"
        if not re.search(pattern, str(error)):
            return f"{type(error).__name__}: {error}: {pattern!r} is not found in it"
        return None
    if pattern is None:
        return None if result else f"returned {result!r}"
    return f"was accepted, and returned {result!r:.200}"


def main(rooms):
    wrong = total = 0
    for room in rooms:
        cases = importlib.import_module(f"tests.refusals.{room}").CASES
        total += len(cases)
        for name, (call, pattern) in cases.items():
            if (found := problem(call, pattern)) is not None:
                wrong += 1
                print(f"{room}: {name}: {found}")
    print(f"{total} calls, {wrong} wrong")
    return bool(wrong or not total)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
