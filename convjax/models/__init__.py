"""Networks written as expressions of ``convjax.nn``, and their weights."""

from convjax import _room
from convjax.models._auxiliary import auxiliary_logits as auxiliary_logits
from convjax.models._convnext import convnext as convnext
from convjax.models._create import create as create
from convjax.models._create import list as list
from convjax.models._create import register as register
from convjax.models._deep_stack import deep_stack as deep_stack
from convjax.models._densenet import densenet as densenet
from convjax.models._efficientnet import efficientnet as efficientnet
from convjax.models._efficientnet_v2 import efficientnet_v2 as efficientnet_v2
from convjax.models._fcn import fcn as fcn
from convjax.models._features import features as features
from convjax.models._features import headless as headless
from convjax.models._freeze import Split as Split
from convjax.models._freeze import freeze as freeze
from convjax.models._from_hub import from_hub as from_hub
from convjax.models._ghostnet import ghostnet as ghostnet
from convjax.models._inception_resnet_v2 import inception_resnet_v2 as inception_resnet_v2
from convjax.models._inception_v1 import inception_v1 as inception_v1
from convjax.models._inception_v3 import inception_v3 as inception_v3
from convjax.models._inception_v4 import inception_v4 as inception_v4
from convjax.models._mnasnet import mnasnet as mnasnet
from convjax.models._mobilenet_v1 import mobilenet_v1 as mobilenet_v1
from convjax.models._mobilenet_v2 import mobilenet_v2 as mobilenet_v2
from convjax.models._mobilenet_v3 import mobilenet_v3 as mobilenet_v3
from convjax.models._mobilenet_v4 import mobilenet_v4 as mobilenet_v4
from convjax.models._network import Family as Family
from convjax.models._network import Keys as Keys
from convjax.models._network import Network as Network
from convjax.models._options import LayerOptions as LayerOptions
from convjax.models._options import Options as Options
from convjax.models._options import ResidualOptions as ResidualOptions
from convjax.models._options import ShortcutOptions as ShortcutOptions
from convjax.models._options import StridedOptions as StridedOptions
from convjax.models._options import with_options as with_options
from convjax.models._preprocessing import Preprocessing as Preprocessing
from convjax.models._preprocessing import preprocessing as preprocessing
from convjax.models._regnet import regnet as regnet
from convjax.models._repvgg import merged as merged
from convjax.models._repvgg import repvgg as repvgg
from convjax.models._resnet import resnet as resnet
from convjax.models._resnet_cifar import resnet_cifar as resnet_cifar
from convjax.models._resnet_v2 import resnet_v2 as resnet_v2
from convjax.models._shufflenet_v2 import shufflenet_v2 as shufflenet_v2
from convjax.models._squeezenet import squeezenet as squeezenet
from convjax.models._style import Style as Style
from convjax.models._unet import unet as unet
from convjax.models._vgg import vgg as vgg
from convjax.models._weights._export import export_weights as export_weights
from convjax.models._weights._export import save as save
from convjax.models._weights._load import Loaded as Loaded
from convjax.models._weights._load import load_weights as load_weights
from convjax.models._wide_resnet_cifar import wide_resnet_cifar as wide_resnet_cifar
from convjax.models._xception import xception as xception

_room.show(globals())
