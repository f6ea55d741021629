"""The networks of ``bench-models``: those of the zoo that PyTorch's timm holds, and ResNet-56."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx

from convjax import lab, models, nn

mobilenet_v1 = partial(models.create, "mobilenetv1_100")
mobilenet_v2 = partial(models.create, "mobilenetv2_100")
resnet_50 = partial(models.create, "resnet50")
xception = partial(models.create, "legacy_xception")
inception_v3 = partial(models.create, "inception_v3")
efficientnet_b0 = partial(models.create, "efficientnet_b0")
convnext_tiny = partial(models.create, "convnext_tiny")


def resnet_56(*, num_classes: int = 10, rngs: nnx.Rngs) -> nn.Chain:
    """Return ResNet-56 for CIFAR, each unit written out.

    Inside a scan XLA's own convolutions would run with scalar code: no peer has to go there.
    """
    return written_out(models.resnet_cifar(56, num_classes=num_classes, rngs=rngs))


def written_out(net: nn.Chain) -> nn.Chain:
    """Return a chain of chains with every repeat in it as the chain that it stands for."""

    def of(unit: nnx.Module) -> nnx.Module:
        if isinstance(unit, nn.Repeat):
            return unit.unrolled()
        return written_out(unit) if isinstance(unit, nn.Chain) else unit

    return nn.Chain({name: of(unit) for name, unit in net.items()})


def resnet_8(*, num_classes: int = 10, rngs: nnx.Rngs) -> nn.Chain:
    """Return ResNet-8 for CIFAR, for a rehearsal, each unit written out."""
    return written_out(models.resnet_cifar(8, num_classes=num_classes, rngs=rngs))


def lower(dtype: str, net: nn.Chain) -> None:
    """Cast the parameters of convolutions and dense layers in place; norms keep theirs."""
    for visit in nn.walk(net):
        if hasattr(visit.node, "kernel"):
            params = nnx.state(visit.node, nnx.Param)
            nnx.update(visit.node, jax.tree.map(lambda a: a.astype(dtype), params))


def loss_of(graphdef: Any, change: Callable[[Any], Any] = lambda net: None) -> Callable[..., Any]:
    """Return ``loss(params, rest, images, labels) -> (mean cross-entropy, rest)`` in train mode.

    Of a network that was split into ``graphdef``, its parameters and the rest; ``change`` is called
    with it first.
    """

    def loss(params: Any, rest: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        net = nnx.merge(graphdef, params, rest, copy=True)
        change(net)
        value = lab.cross_entropy(net(images, train=True), labels)
        return value, nnx.split(net, nnx.Param, ...)[2]

    return loss
