"""What does a network cost, and how do signal and gradient travel through it, on your images?

    convjax inspect NAME --weights FILE --images FOLDER

NAME is one of ``models.list()``, or a network of your own: ``convjax inspect nets.py:make --input
8,32,32,3`` imports the file, or a ``package.module``, and takes what ``make`` returns or is: a
module of NNX, ``nn.Function``, ``(apply, params)``, a Linen or an Equinox module.

Prints the cost of every unit; then the norms of activations and gradients at every unit from one
backward pass; draws them along the layers, the leaves with a kernel. Every number of every unit is
in ``inspect.parquet``.

Without --weights, or --trained of your own network, it is randomly initialized, and what mean-field
theory expects of it (``gradflow.predict``) stands beside the measurement; of trained weights theory
says nothing. Without --images the batch is unit Gaussian noise. Unless --train or --no-train says
otherwise, loaded weights are measured in evaluation mode, with the running statistics that belong
to them, and fresh ones on batch statistics: at initialization running statistics normalise nothing.

The gradient is that of the mean cross-entropy where weights are loaded and the images lie in as
many class folders as the network has outputs, taken in sorted order. Else it comes from a unit
Gaussian cotangent at the output, as theory has it.

Pass: all numbers are finite; every unit with parameters is given a gradient other than zero; and a
fresh network is as theory expects: ``gradflow.compare`` finds no unit that departs.

Takes about half a minute on two cores for a ResNet-50, nearly all of it compilation. Nothing is
kept to be taken again: under one name, a file of weights and a folder of images may have changed.
"""

from convjax import _room
from convjax.lab.inspect._figure import draw as draw
from convjax.lab.inspect._figure import judge as judge
from convjax.lab.inspect._figure import table as table
from convjax.lab.inspect._question import KEEPS as KEEPS
from convjax.lab.inspect._question import Config as Config
from convjax.lab.inspect._question import cells as cells
from convjax.lab.inspect._question import in_full as in_full
from convjax.lab.inspect._question import measure as measure

_room.show(globals())
