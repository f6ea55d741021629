"""Which nodes are positively homogeneous: ``f(c x) = c f(x)`` for every c > 0."""

from flax import nnx

from convjax import _check, nn
from convjax._rules import by_type

_HOMOGENEOUS_ACTIVATIONS = ("relu", "leaky_relu", "linear")


@by_type
def homogeneous(node: nnx.Module) -> bool:
    """Return whether ``node(c x) = c node(x)`` for every c > 0.

    Between homogeneous units a forward pass may be renormalised without changing what it computes.
    A leaf that registers nothing is taken not to be.

    Args:
      node: any node.

    Returns:
      Whether it is known to be positively homogeneous.

    Raises:
      WrongTypeError: what is no module.

    Example:
      >>> from convjax import gradflow, nn
      >>> gradflow.homogeneous(nn.Activation("relu")), gradflow.homogeneous(nn.Activation("tanh"))
      (True, False)
    """
    _check.instance("node", node, nnx.Module, "a module, such as a node of convjax.nn")
    return False


@homogeneous.register(nn.Conv)
@homogeneous.register(nn.DepthwiseConv)
@homogeneous.register(nn.PointwiseConv)
@homogeneous.register(nn.ConvTranspose)
@homogeneous.register(nn.Dense)
def _(node):
    return node.bias is None


@homogeneous.register(nn.Identity)
@homogeneous.register(nn.Scale)
@homogeneous.register(nn.Pool)
@homogeneous.register(nn.GlobalPool)
@homogeneous.register(nn.CellPool)
@homogeneous.register(nn.Channels)
@homogeneous.register(nn.Upsample)
@homogeneous.register(nn.ZeroPadShortcut)
@homogeneous.register(nn.Dropout)
@homogeneous.register(nn.StochasticDepth)
def _(node):
    return not isinstance(node, nn.Scale) or isinstance(node.value, nnx.Param) or node.value >= 0


@homogeneous.register
def _(node: nn.Activation):
    return node.name in _HOMOGENEOUS_ACTIVATIONS


@homogeneous.register(nn.Chain)
@homogeneous.register(nn.Parallel)
@homogeneous.register(nn.Residual)
@homogeneous.register(nn.Repeat)
def _(node):
    return all(homogeneous(child) for _, child in nn.children(node))


@homogeneous.register
def _(node: nn.Segment):
    return node.work.degree == 1


@homogeneous.register
def _(node: nn.Graph):
    return False
