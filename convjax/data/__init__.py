"""Real data: a package's own, or files; and noise. Nothing is downloaded."""

from convjax import _room
from convjax.data._augment import Augment as Augment
from convjax.data._batches import batch_indices as batch_indices
from convjax.data._cifar import cifar10 as cifar10
from convjax.data._cifar import cifar100 as cifar100
from convjax.data._digits import digits as digits
from convjax.data._find import find as find
from convjax.data._gaussian import gaussian as gaussian
from convjax.data._idx import fashion_mnist as fashion_mnist
from convjax.data._idx import mnist as mnist
from convjax.data._images import ImageFolder as ImageFolder
from convjax.data._images import image_folder as image_folder
from convjax.data._moments import moments as moments
from convjax.data._npz import npz as npz
from convjax.data._resident import Resident as Resident
from convjax.data._resident import resident as resident
from convjax.data._sets import Sets as Sets
from convjax.data._sets import hold_out as hold_out
from convjax.data._sets import sets as sets
from convjax.data._splits import image_splits as image_splits
from convjax.data._stream import Stream as Stream
from convjax.data._stream import stream as stream

_room.show(globals())
