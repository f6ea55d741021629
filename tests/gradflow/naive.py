"""The naive twin of a profile: the network unrolled, a zero added at every output, plain jax.grad.

Nothing here is shared with the measurement: no taps, no tokens, no scan, no rescaling.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import nn


def unroll(node):
    """Write every Repeat out as a chain."""
    if isinstance(node, nn.Repeat):
        return nn.Chain([unroll(node[i]) for i in range(node.n)])
    if isinstance(node, nn.Chain | nn.Parallel):
        kind = nn.Chain if isinstance(node, nn.Chain) else nn.Parallel
        return kind({name: unroll(unit) for name, unit in node.items()})
    if isinstance(node, nn.Residual):
        shortcut = "none" if node.shortcut is None else unroll(node.shortcut)
        return nn.Residual(
            unroll(node.branch), shortcut, scale=node.scale, activation=node.activation
        )
    return node


def profile(net, x, loss, *, train):
    """Return {path: {column: log norm}} in float64, keyed as the table of a profile is."""
    graphdef, params, rest = nnx.split(unroll(net), nnx.Param, ...)

    def run(params, extra):
        return _run(nnx.merge(graphdef, params, rest, copy=True), x, extra, train)

    shapes = jax.eval_shape(run, params, {})[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    @jax.jit
    def measure(params, zeros):
        _, pullback, values = jax.vjp(run, params, zeros, has_aux=True)
        output = values[""]
        return values, pullback(jax.grad(loss)(output))

    values, (parameter_gradients, received) = measure(params, zeros)
    rows = {}
    for path, value in values.items():
        if path.endswith(("<", "+")):
            continue
        rows[path] = {"activation": _log(value), "gradient": _log(received[path])}
        for part in ("branch", "shortcut"):
            side = f"{path}/{part}" if path else part
            if f"{side}+" in values:
                rows[path][part] = _log(values[f"{side}+"])
                rows[path][f"{part}_gradient"] = _log(received[f"{side}<"])
    for kind, state in (("parameter", params), ("parameter_gradient", parameter_gradients)):
        flat = {"/".join(map(str, p)): leaf[...] for p, leaf in nnx.to_flat_state(state)}
        for path, row in rows.items():
            prefix = f"{path}/" if path else ""
            below = [np.ravel(leaf) for name, leaf in flat.items() if name.startswith(prefix)]
            if below:
                row[kind] = _log(np.concatenate(below))
    return rows


def _log(array):
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.norm(np.asarray(array, np.float64)))


def _run(net, x, extra, train):
    """Run the network; add ``extra`` at every place; return the output and every place's value."""
    values = {}

    def place(path, value):
        value = value + extra[path] if path in extra else value
        values[path] = value
        return value

    def run(node, x, path):
        def below(name):
            return f"{path}/{name}" if path else name

        if isinstance(node, nn.Chain):
            for name, unit in node.items():
                x = run(unit, x, below(name))
            return place(path, x)
        if isinstance(node, nn.Parallel):
            outputs = [run(unit, x, below(name)) for name, unit in node.items()]
            return place(path, jnp.concatenate(outputs, -1))
        if not isinstance(node, nn.Residual):
            return place(path, node(x, train=train))
        if node.shortcut is None:
            y = node.scale * run(node.branch, x, below("branch"))
        else:
            x_branch = place(below("branch<"), x)
            x_shortcut = place(below("shortcut<"), x)
            branch = node.scale * run(node.branch, x_branch, below("branch"))
            shortcut = run(node.shortcut, x_shortcut, below("shortcut"))
            if isinstance(node.shortcut, nn.Gate):
                branch, shortcut = shortcut * branch, (1 - shortcut) * x_shortcut
            y = place(below("branch+"), branch) + place(below("shortcut+"), shortcut)
        if node.activation is not None:
            y = run(node.activation, y, below("activation"))
        return place(path, y)

    return run(net, place("input", x), ""), values
