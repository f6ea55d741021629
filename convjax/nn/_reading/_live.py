"""live: any network's call as a program, with taps where the whole signal passes.

What ``nn.read`` makes of a program computes the output alone. A training step wants what the call
leaves behind as well, such as running statistics; so here the program itself is run.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax.core import Tracer

from convjax import _trace
from convjax.nn._applied import applied
from convjax.nn._node import walk
from convjax.nn._reading._called import scoped_modules, variables_of
from convjax.nn._reading._read import CONSTANT, KEPT, Names, Reader, is_hashable, output_of
from convjax.nn._reading._structure import Loop

Tap = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Taps:
    """A program, and where its signal can be tapped.

    Attributes:
      program: all that the call computes.
      labels: by variable, the name of the unit that it is the output of.
      loops: by equation, a loop whose inside can be tapped, with its length and whether it
        rematerialises.
    """

    program: Any
    labels: dict[Any, str]
    loops: dict[int, tuple["Taps", int, bool]]

    def places(self, repeats: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
        """Return the names of all units that can be tapped, with the repeats around each."""
        found = {}
        for i, equation in enumerate(self.program.equations):
            if i in self.loops:
                inner, length, _ = self.loops[i]
                found |= inner.places((*repeats, length))
            found |= {self.labels[v]: repeats for v in equation.outvars if v in self.labels}
        return found

    def run(self, given: list[Any], tokens: Mapping[str, Any], tap: Tap) -> list[Any]:
        """Return the program's outputs, its units tapped where there is a token."""
        program = self.program
        values = dict(zip(program.inputs, given, strict=True)) | program.constants
        for i, equation in enumerate(program.equations):
            inputs = [_value(v, values) for v in equation.invars]
            if i in self.loops:
                results = self._looped(i, inputs, tokens, tap)
            else:
                results = _trace.bind(equation, inputs)
            for v, result in zip(equation.outvars, results, strict=True):
                token = tokens.get(self.labels.get(v, ""))
                values[v] = result if token is None else tap(result, token)
        return [_value(v, values) for v in program.outputs]

    def _looped(self, i: int, inputs: list[Any], tokens: Mapping[str, Any], tap: Tap) -> list[Any]:
        inner, length, remat = self.loops[i]
        own = {label: tokens[label] for label in inner.places() if label in tokens}

        def step(x: Any, slices: Any) -> Any:
            held, tokens = slices
            x, *others = inner.run([x, *held], tokens, tap)
            return x, others

        step = jax.checkpoint(step, prevent_cse=False) if remat else step
        x, *held = inputs
        x, others = jax.lax.scan(step, x, (held, own), length)
        return [x, *others]


def _value(v: Any, values: Mapping[Any, Any]) -> Any:
    return values[v] if _trace.is_variable(v) else v.val


def _taps(reader: Reader, program: Any) -> Taps:
    """Return a program with the outputs of its trunk's units by name."""
    labels, loops = {}, {}
    for part in reader.parts(reader.series):
        if isinstance(part, Loop):
            inner = _taps(reader.inside(part), part.program)
            loops[part.equation] = (inner, part.length, part.remat)
            continue
        named = (vars(node).get("_label") for _, node, _ in walk(reader.node(part)))
        exit = getattr(part, "exit", None)
        if exit is None:  # a sum or a concatenation
            exit = reader.flow.equations[part.equation].outvars[0]
        labels[exit] = [name for name in named if name][-1]
    return Taps(program, labels, loops)


def _read(
    net: nnx.Module,
    x: Any,
    train: bool,
    rngs: nnx.Rngs | None,
    call: Callable[..., Any] | None,
) -> Taps:
    """Return the program of a call.

    It takes what network and ``rngs`` hold, and ``x``; it returns the output, and what they hold
    afterwards.
    """
    modules = [net, *([] if rngs is None else [rngs])]
    split = [nnx.split(module) for module in modules]
    held = [variables_of(module) for module in modules]
    variables = {f"{'rngs/' * i}{n}": v for i, found in enumerate(held) for n, v in found.items()}
    values, structure = jax.tree.flatten([state for _, state in split])
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    kinds = tuple((v.shape, v.dtype) for v in values)
    key = (tuple(graphdef for graphdef, _ in split), kinds, train, call, shape.shape, shape.dtype)
    key = (*key, _trace.axes())
    told_apart = is_hashable(key)
    if told_apart and key in _PROGRAMS:
        return _PROGRAMS[key]
    returned: list[Any] = []

    def function(values: list[Any], x: Any) -> Any:
        states = jax.tree.unflatten(structure, values)
        copies: list[Any] = [
            nnx.merge(graphdef, state, copy=True)
            for (graphdef, _), state in zip(split, states, strict=True)
        ]
        with scoped_modules(copies[0]):
            y = applied(copies[0], x, train, copies[1] if rngs is not None else None, call)
        returned[:] = [y]
        return y, [_after(*pair) for pair in zip(copies, held, strict=True)]

    program = _trace.trace(function, values, shape)
    outputs = program.outputs[: len(jax.tree.leaves(returned[0]))]
    exit = output_of(dataclasses.replace(program, outputs=outputs), returned.pop())
    names = dict(zip(program.inputs[:-1], variables, strict=True))
    known = {v: variables[name] for v, name in names.items()}
    for i, (v, value) in enumerate(program.constants.items()):
        names[v], known[v] = f"{CONSTANT} {i}", nnx.Variable(value)
    # What is tried on numbers to recognise a unit is no part of what is traced around.
    with jax.ensure_compile_time_eval():
        taps = _taps(Reader(program, program.inputs[-1], exit, names, known, Names()), program)
    traced = any(isinstance(value, Tracer) for value in program.constants.values())
    if told_apart and not traced:
        if len(_PROGRAMS) >= KEPT:
            del _PROGRAMS[next(iter(_PROGRAMS))]
        _PROGRAMS[key] = taps
    return taps


_PROGRAMS: dict[Any, Taps] = {}


def _after(module: Any, before: dict[str, Any]) -> list[Any]:
    """Return what a module holds after a call, of what it held before."""
    found = {
        "/".join(map(str, path)): getattr(value, "get_value", lambda value=value: value)()
        for path, value in nnx.to_flat_state(nnx.state(module))
    }
    return [found[name] for name in before]


class Live:
    """A network's call as a program, to be run with taps where the whole signal passes.

    ``nn.read`` makes an expression of what the call returns; this computes what it leaves behind as
    well, statistics and counts of random numbers. ``gradflow.tapped`` uses it.

    Args:
      net: any module of Flax NNX, or an ``nn.Function``.
      x: the batch, or what has its shape and dtype.
      train: the mode.
      rngs: source of random numbers, where the network's call takes one.
      call: how the network is called, if not as its signature says; see ``nn.applied``.

    Raises:
      ValueError: a call that does not return one array of floating numbers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> net = nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), jax.nn.relu)
      >>> x = jnp.ones((1, 3))
      >>> live = nn.Live(net, x, train=True)
      >>> list(live.places)
      ['layers/0', 'layers/relu']
      >>> live(x, {"layers/relu": jnp.float32(2)}, lambda y, token: token * y).shape
      (1, 2)

    Attributes:
      places: names of the units that can be tapped, with the lengths of the loops around each.
    """

    def __init__(
        self,
        net: nnx.Module,
        x: Any,
        *,
        train: bool,
        rngs: nnx.Rngs | None = None,
        call: Callable[..., Any] | None = None,
    ):
        self._modules = [net, *([] if rngs is None else [rngs])]
        self._taps = _read(net, x, train, rngs, call)
        self.places = self._taps.places()

    def __call__(self, x: jax.Array, tokens: Mapping[str, Any], tap: Tap) -> jax.Array:
        """Call the network as ``nn.applied`` does, with ``tap(output, token)`` for units' outputs.

        Args:
          x: the batch.
          tokens: by name of the unit; with the loops around it as leading axes.
          tap: what the output of a unit with a token is replaced by.
        """
        states = [nnx.state(module) for module in self._modules]
        values, structure = jax.tree.flatten(states)
        y, *after = self._taps.run([*values, x], tokens, tap)
        for module, state in zip(self._modules, jax.tree.unflatten(structure, after), strict=True):
            nnx.update(module, state)
        return y
