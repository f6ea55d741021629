"""The networks of ``bench-models`` in PyTorch, for the process that ``torch_peer.py`` serves.

Needs torch, and timm for all but the networks for CIFAR; it knows neither JAX nor this package.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

TIMM = {
    "mobilenet_v1": "mobilenetv1_100",
    "mobilenet_v2": "mobilenetv2_100",
    "resnet_50": "resnet50",
    "xception": "legacy_xception",
    "inception_v3": "inception_v3",
    "efficientnet_b0": "efficientnet_b0",
    "convnext_tiny": "convnext_tiny",
}

# The n of residual networks of 6n + 2 layers.
CIFAR = {"resnet_8": 1, "resnet_56": 9}


def build(
    memory_format: Any,
    *,
    name: str,
    batch: int,
    size: int,
    seed: int,
    learning_rate: float,
    momentum: float,
    dtype: str = "float32",
    device: str = "cpu",
    compiled: bool = False,
) -> Callable[[], None]:
    """Return one whole training step of a key of ``TIMM`` or ``CIFAR``, on its own batch.

    In bfloat16 parameters and norms stay float32, as PyTorch's autocast has it.
    """
    torch.manual_seed(seed)
    net = network(name).to(device, memory_format=memory_format).train()
    images = torch.randn(batch, 3, size, size, device=device).contiguous(
        memory_format=memory_format
    )
    labels = torch.arange(batch, device=device) % 10
    optimiser = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=momentum)
    called = torch.compile(net) if compiled else net

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = F.cross_entropy(called(images), labels)
        loss.backward()
        optimiser.step()

    return step


def network(name: str) -> Any:
    """Return a network with initial values."""
    if name in CIFAR:
        return resnet_cifar(CIFAR[name])
    return import_timm().create_model(TIMM[name])


def import_timm() -> Any:
    """Import timm, also where torchvision, which it needs, was not built for this torch."""
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except RuntimeError:
        # torchvision describes operators that its library has not brought; no network uses them.
        for name in ("torchvision::nms", "torchvision::qnms"):
            schema = "(Tensor dets, Tensor scores, float threshold) -> Tensor"
            torch.library.define(name, schema)
        for module in [m for m in sys.modules if m.partition(".")[0] in ("timm", "torchvision")]:
            del sys.modules[module]
        import timm  # pyright: ignore[reportMissingImports]
    return timm


class Unit(nn.Module):
    """A residual unit of two 3x3 convolutions, its shortcut without parameters (option A)."""

    def __init__(self, in_features: int, features: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(
            *conv(in_features, features, stride), nn.ReLU(inplace=True), *conv(features, features)
        )
        self.stride, self.extra = stride, features - in_features

    def forward(self, x: Any) -> Any:
        """Add branch and shortcut."""
        y = self.branch(x)
        if self.extra:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return F.relu(y + x, inplace=True)


def conv(in_features: int, features: int, stride: int = 1) -> tuple[Any, Any]:
    """Return a 3x3 convolution and its norm."""
    kernel = nn.Conv2d(in_features, features, 3, stride, 1, bias=False)
    return kernel, nn.BatchNorm2d(features)


def resnet_cifar(n: int, num_classes: int = 10) -> Any:
    """Return the residual network for CIFAR of depth 6n + 2 (He et al. 2015, section 4.2)."""
    layers = [*conv(3, 16), nn.ReLU(inplace=True)]
    for i in range(3 * n):
        halved = i in (n, 2 * n)
        features = 16 * 2 ** (i // n)
        layers.append(Unit(features // 2 if halved else features, features, 2 if halved else 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))
