"""The networks of ``bench-models``: those of the zoo that PyTorch's timm holds, and ResNet-56."""

from collections.abc import Callable
from functools import partial

from flax import nnx

from convjax import models, nn


def _of(name: str) -> Callable[..., nn.Chain]:
    return partial(models.create, name)


mobilenet_v1 = _of("mobilenetv1_100")
mobilenet_v2 = _of("mobilenetv2_100")
resnet_50 = _of("resnet50")
xception = _of("legacy_xception")


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
