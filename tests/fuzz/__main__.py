"""Make malformed calls; print what did not end well, by callable."""

import argparse
import faulthandler
import importlib
import random
import sys
import time
from collections import Counter, defaultdict

from tests.fuzz.room import Room

ROOMS = (
    "ops",
    "layers",
    "initializers",
    "networks",
    "cost",
    "flow",
    "oracles",
    "data",
    "train",
    "study",
    "plots",
    "lab",
    "commands",
)
# A call that does not even heed a signal ends the process by then.
SECONDS = 45


def modules(names=()):
    """Return the modules of some rooms; of all without names."""
    return {name: importlib.import_module(f"tests.fuzz.{name}") for name in names or ROOMS}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("rooms", nargs="*", choices=[*ROOMS, []], help="without any, all")
    parser.add_argument("--calls", type=int, default=1500, help="how many; 0 makes all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.98, help="that must end well")
    parser.add_argument("--times", action="store_true", help="print the slowest calls")
    options = parser.parse_args()
    source = random.Random(options.seed)
    rooms = {}
    attempts = []
    for name, module in modules(options.rooms).items():
        rooms[name] = getattr(module, "Room", Room)(module.CALLS, module.ACCEPTED)
        attempts += [[(name, one) for one in some] for some in rooms[name].attempts(source)]
    drawn = drawn_evenly(attempts, options.calls)
    bad = defaultdict(list)
    taken = Counter()
    for room, attempt in drawn:
        # Where the process dies, this is the last that is heard of it.
        print(f"calling {attempt}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        start = time.perf_counter()
        problem = rooms[room].problem(attempt)
        taken[str(attempt)] = time.perf_counter() - start
        if problem is not None:
            bad[attempt.name].append(f"  {attempt.argument}: {attempt.label}: {problem}")
    faulthandler.cancel_dump_traceback_later()
    wrong = sum(map(len, bad.values()))
    for name in sorted(bad, key=lambda name: -len(bad[name])):
        print(name, *bad[name], sep="\n")
    if options.times:
        print(*(f"{s:.2f} s {name}" for name, s in taken.most_common(30)), sep="\n")
    print(f"{len(drawn)} calls, {wrong} not well ({100 - 100 * wrong / len(drawn):.1f} % well)")
    return int(wrong > (1 - options.share) * len(drawn))


def drawn_evenly(attempts, calls):
    """Return as many attempts, the same number of every callable while it has them."""
    drawn = []
    for i in range(max(map(len, attempts))):
        drawn += [some[i] for some in attempts if i < len(some)]
        if calls and len(drawn) >= calls:
            return drawn[:calls]
    return drawn


if __name__ == "__main__":
    sys.exit(main())
