"""Networks written as expressions of ``convjax.nn``."""

from convjax.models._deep_stack import deep_stack as deep_stack
from convjax.models._resnet_cifar import resnet_cifar as resnet_cifar
