"""Which known leaf some equations compute: a convolution, a matrix, a norm, an activation, a pool.

What is recognised is what the equations are, never what a module is called.
"""

from collections.abc import Mapping
from typing import Any

from convjax._trace import is_variable
from convjax.nn._reading._like import Layout, Like, of_outside
from convjax.nn._reading._norms import norm
from convjax.nn._reading._places import through
from convjax.nn._reading._pointwise import pointwise
from convjax.nn._reading._pools import pool
from convjax.nn._reading._segment import Work
from convjax.nn._reading._structure import PRODUCTS, SHAPES


def recognise(
    work: Work, names: Mapping[Any, str], parameters: frozenset[str], *, first: bool = False
) -> Like | None:
    """Return the known leaf that some equations compute; None if they are none.

    Args:
      work: the equations.
      names: what the segment calls the values that come from outside.
      parameters: those of the names that are learned.
      first: whether images have their channels behind the batch.
    """
    if len(work.entries) != 1:
        return None
    core = [e for e in work.path if e.primitive.name in PRODUCTS]
    if len(core) == 1:
        return _product(core[0], work, names)
    if core:
        return None
    found = pointwise(work) or pool(work, first=first)
    return found or norm(work, names, parameters, first=first) or _plain(work, names)


def _product(core: Any, work: Work, names: Mapping[Any, str]) -> Like | None:
    """Recognise a convolution or a matrix, with the bias after it."""
    before, after = _around(core, work)
    lhs, rhs = core.invars[:2]
    if core.primitive.name == "dot_general" and rhs in work.signals:
        lhs, rhs = rhs, lhs
    if rhs in work.signals or lhs not in work.signals:
        return None
    pads = [e for e in before if e.primitive.name == "pad"]
    if any(e.primitive.name not in SHAPES and e not in pads for e in before):
        return None
    bias = None
    for equation in after:
        if equation.primitive.name in SHAPES:
            continue
        used = of_outside(equation, work, names)
        terms = [v for v in equation.invars if not (is_variable(v) and v in work.signals)]
        if equation.primitive.name != "add" or bias is not None or not len(terms) == len(used) == 1:
            return None
        (bias,) = used
    if core.primitive.name == "dot_general":
        return None if pads else _matrix(core, work, bias)
    if not pads:
        return _convolution(core, bias)
    padding = _padded(core, before, work)
    return None if padding is None else _convolution(core, bias, padding)


def _around(core: Any, work: Work) -> tuple[list[Any], list[Any]]:
    place = work.path.index(core)
    return work.path[:place], work.path[place + 1 :]


def _padded(core: Any, before: list[Any], work: Work) -> list[tuple[int, int]] | None:
    """Return the padding of a convolution with the zeros that were put around its input before."""
    if len(before) != 1 or work.number(before[0].invars[1]) != 0:
        return None
    config = before[0].params["padding_config"]
    numbers = core.params["dimension_numbers"].lhs_spec
    if any(low < 0 or high < 0 or inner for low, high, inner in config):
        return None
    if any(tuple(config[axis]) != (0, 0, 0) for axis in numbers[:2]):
        return None
    added = [config[axis] for axis in numbers[2:]]
    pairs = zip(core.params["padding"], added, strict=True)
    return [(int(low + a), int(high + b)) for (low, high), (a, b, _) in pairs]


def _matrix(core: Any, work: Work, bias: str | None) -> Like | None:
    """Recognise a product over the last axes: all features of a place are made of all of them."""
    contracted, batch = core.params["dimension_numbers"]
    if any(batch):
        return None
    x, kernel = core.invars[:2]
    mine, theirs = contracted
    turned = kernel in work.signals
    if turned:
        x, kernel, mine, theirs = kernel, x, theirs, mine
    rank = x.aval.ndim
    pairs = sorted(zip(mine, theirs, strict=True))
    made = tuple(i for i in range(kernel.aval.ndim) if i not in theirs)
    if [i for i, _ in pairs] != list(range(rank - len(pairs), rank)) or not pairs or not made:
        return None
    if rank == len(pairs) or not _keeps_batch(core, work, rank - len(pairs), len(made), turned):
        return None
    into = tuple(i for _, i in pairs)
    return Like("Dense", (), kernel, (into, made), bias=bias)


def _keeps_batch(core: Any, work: Work, free: int, made: int, turned: bool) -> bool:
    """Whether the result begins with the batch, and ends with a feature of the product's."""
    _, after = _around(core, work)
    axes = through([e for e in after if e.primitive.name in SHAPES], free + made)
    if axes is None:
        return False
    batch, features = (made, range(made)) if turned else (0, range(free, free + made))
    return axes[0] == batch and axes[-1] in features


def _convolution(core: Any, bias: str | None, padding: Any = None) -> Like | None:
    how = core.params
    numbers = how["dimension_numbers"]
    out, into, *window = numbers.rhs_spec
    kernel = core.invars[1]
    groups = how["feature_group_count"]
    if how["batch_group_count"] != 1:
        return None
    if any(d != 1 for d in how["lhs_dilation"]):
        if padding is not None:
            return None
        return _transposed(core, bias, (*window, into, out))
    fields = {
        "strides": tuple(how["window_strides"]),
        "padding": tuple(map(tuple, padding or how["padding"])),
        "kernel_dilation": tuple(how["rhs_dilation"]),
        "feature_group_count": groups,
    }
    depthwise = groups > 1 and kernel.aval.shape[into] == 1
    kind = "DepthwiseConv" if depthwise else "Conv"
    return Like(kind, tuple(fields.items()), kernel, (*window, into, out), bias=bias)


def _transposed(core: Any, bias: str | None, order: Layout) -> Like | None:
    """Recognise a transposed convolution: its input is spread, and then convolved."""
    how, kernel = core.params, core.invars[1].aval.shape
    spread = tuple(how["rhs_dilation"])
    sides = [d * (kernel[axis] - 1) for axis, d in zip(order, spread, strict=False)]
    cropped = tuple(
        (side - low, side - high) for side, (low, high) in zip(sides, how["padding"], strict=True)
    )
    if min(min(pair) for pair in cropped) < 0 or any(s != 1 for s in how["window_strides"]):
        return None
    fields = {
        "strides": tuple(how["lhs_dilation"]),
        "padding": cropped,
        "kernel_dilation": spread,
        "output_padding": 0,
        "feature_group_count": how["feature_group_count"],
    }
    return Like("ConvTranspose", tuple(fields.items()), core.invars[1], order, bias=bias)


def _plain(work: Work, names: Mapping[Any, str]) -> Like | None:
    """Recognise dropout, and what only changes the shape."""
    used = {e.primitive.name for e in work.path}
    if used <= SHAPES:
        before, after = work.entries[0].aval.shape, work.exit.aval.shape
        return Like("Flatten" if len(before) > 2 and len(after) == 2 else "Reshape")
    if len(work.path) == 1 and used == {"mul"}:
        (equation,) = work.path
        found = of_outside(equation, work, names)
        numbers = [float(v.val) for v in equation.invars if _is_number(equation, v)]
        if found:
            return Like("Scale", value=found[0])
        return Like("Scale", (("value", numbers[0]),)) if numbers else None
    bits = [e.outvars[0].aval.size for e in work.aside if e.primitive.name == "random_bits"]
    kept = [float(v.val) for e in work.path for v in e.invars if _is_number(e, v)]
    if len(bits) == 1 and len(kept) == 1 and used <= {"select_n", "div", "mul"}:
        rate = 1 - (kept[0] if "div" in used else 1 / kept[0])
        each = bits[0] == work.entries[0].aval.shape[0]
        return Like("StochasticDepth" if each else "Dropout", (("rate", rate),))
    return None


def _is_number(equation: Any, v: Any) -> bool:
    """Whether an argument is the number that an equation multiplies or divides by."""
    return equation.primitive.name in ("div", "mul") and not is_variable(v)
