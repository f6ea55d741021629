"""cost: multiply-adds, parameters, bytes and receptive field of every unit, from shapes alone."""

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from convjax import _check, _foreign, nn
from convjax._cost import _window
from convjax._cost._price import price
from convjax._cost._record import Cost
from convjax._cost._unit import UnitCost
from convjax._cost._visit import Row, Scope, Signal, abstract, sizes, visit

P = ParamSpec("P")
Result = TypeVar("Result", covariant=True)


class Registering(Protocol[P, Result]):
    """A function that a rule for a type of leaves is registered with."""

    register: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call the function."""
        ...


def _registering(register: Any) -> Callable[[Callable[P, Result]], Registering[P, Result]]:
    def put(function: Any) -> Any:
        function.register = register
        return cast(Any, function)

    return put


@_registering(price.register)
def cost(
    net: nnx.Module,
    input_shape: Sequence[int] | jax.Array | np.ndarray,
    *,
    dtype: DTypeLike = jnp.float32,
    call: Callable[[Any, Any], Any] | None = None,
) -> Cost:
    """Count what a network computes, holds and moves, at every unit, without computing anything.

    Formulas, for the whole batch, ``places`` being examples times spatial positions:

    - multiply-adds: output places times the kernel's size for a convolution, grouped or not; input
      places times the kernel's size for a transposed one and a matrix. Padding counts as image, as
      in published tables (XLA leaves it out). Nothing else counts: neither biases and norms, nor
      activations, pools, additions and the standardisation of a kernel.
    - flops: 2 for each multiply-add; 1 for each element that a bias, an activation, a scale or an
      addition makes, and for each element that a pool looks at; 2 for each element of a batch norm
      (running statistics) and 7 of another norm; 4 for each of a gated sum.
    - parameters: entries of every ``nnx.Param``, those that units share once. Running statistics
      are none.
    - activation bytes: the arrays made: the output of every leaf, addition and concatenation. A
      leaf that hands on its input, such as ``Identity``, makes none. What a compiler fuses away or
      keeps besides (a mask, statistics) is not seen here.
    - traffic bytes: every leaf reads its input, parameters and statistics once and writes its
      output once; an addition reads its terms, a concatenation its parts. Fusion makes it less.
    - receptive field: from the first to the last place of the input that one place of the output
      depends on, borders left aside; the most where outputs differ, as after a transposed
      convolution, and through a residual or a parallel what any side sees. A batch norm sees its
      own place (running statistics), a group norm the whole image.

    A leaf of your own is counted by shapes, parameters and bytes; its arithmetic by a rule that you
    register with ``cost.register``: a function of the leaf, and of shape and dtype of its input and
    its output, that returns a ``convjax.Price``. The leaf's type is the annotation of the first
    argument. Without a rule a module is read, and its parts are counted; what runs a program of its
    own is listed in ``Cost.unknown``.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``;
        ``nnx.eval_shape(lambda: …)`` makes one without parameters'
        values.
      input_shape: shape of the batch, ``(N, *spatial, C)``, or the batch itself, of which the shape
        counts. Published counts are for N = 1.
      dtype: dtype of the batch.
      call: how a network that is no expression of ``convjax.nn`` is called, as for ``nn.read``; it
        is read with its norms on running statistics, if its call has a mode.

    Returns:
      The ``Cost``: totals as attributes, ``cost["stage2/first"]`` for one unit, ``cost.table()``
      for columns, ``print(cost)`` for a table to be read.

    Raises:
      ValueError: an input shape that is none, a dtype that is not floating, an input that a unit
        cannot take; the message names the unit.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.resnet_cifar(20, rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 32, 32, 3))
      >>> cost.multiply_adds, cost.parameters
      (40551040, 269722)
      >>> cost["stage2/first/branch"].receptive_field.tolist()
      [21.0, 21.0]

      A leaf of your own:

      >>> from convjax import nn
      >>> class Square(nn.Node):
      ...     def __call__(self, x, train=False, rngs=None):
      ...         return x * x
      >>> @convjax.cost.register
      ... def _(node: Square, x, y):
      ...     return convjax.Price(elementwise=y.size)
      >>> convjax.cost(Square(), (1, 5, 4, 3)).flops
      60

    Reference: the multiply-adds of Howard et al., MobileNets, 2017; receptive fields as in Araujo,
    Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks, 2019.
    """
    _foreign.module("net", net, "a network, any module of nnx")
    shape, dtype = _shape(input_shape), _check.dtype("dtype", dtype)
    net, first = _opened(net, jax.ShapeDtypeStruct(shape, dtype), call)
    spatial = shape[2:] if first else shape[1:-1]
    reaches = tuple(_window.identity() for _ in spatial)
    scope = Scope({}, [], {})
    visit(abstract(net), Signal(jax.ShapeDtypeStruct(shape, dtype), reaches), scope)
    labels = {path: nn.label_of(path, row.node) for path, row in scope.rows.items()}
    shown = {path: label for path, label in labels.items() if label is not None}
    turns = {path: nn.turns_of(scope.rows[path].node) for path in shown}
    rows = [scope.rows[path] for path in shown]
    order = nn.Turns.in_order([*turns.values()])
    units = tuple(_unit(rows[i], k) for i, k in order)
    unknown = [path for path in scope.unknown if path in shown]
    return Cost(
        nn.Turns.names([*shown.values()], [*turns.values()]),
        units,
        shape,
        dtype,
        nn.Turns.names([shown[path] for path in unknown], [turns[path] for path in unknown]),
        net.words if isinstance(net, nn.Reading) else "",
    )


def _opened(net: Any, x: Any, call: Any) -> tuple[nnx.Module, bool]:
    """Return a network's expression, read if it is none; and whether its channels come first."""
    if call is None and isinstance(net, nn.Node):
        first = isinstance(net, nn.Reading) and net.channels_first
        return nn.seen(net, x, train=False), first
    # What norms compute in either mode is counted as one: a network is read without its batch.
    mode = False if call is None and nn.takes_mode(net) else None
    found = nn.read(net, x, call=call, train=mode)
    return found, found.channels_first


def _shape(input_shape: Any) -> tuple[int, ...]:
    if getattr(input_shape, "ndim", 1) > 1:  # a batch, as other instruments take it
        input_shape = input_shape.shape
    shape = _check.integers("input_shape", input_shape, least=1)
    if len(shape) < 2:
        raise ValueError(f"input_shape={shape} must be (N, *spatial, C): at least two integers")
    return shape


def _unit(row: Row, turn: int | None) -> UnitCost:
    node, work = row.node, row.work
    field = sizes(row)
    return UnitCost(
        kind=nn.kind_of(node),
        output_shape=row.signal.x.shape,
        multiply_adds=work.multiply_adds,
        flops=work.flops,
        parameters=sum(work.parameters.values()),
        activation_bytes=work.activation_bytes,
        traffic_bytes=work.traffic_bytes,
        receptive_field=field if turn is None else field[turn],
        stride=tuple(reach.stride for reach in row.signal.reaches),
        leaf=row.leaf,
    )
