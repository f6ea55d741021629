"""Train any network of the zoo on digits, CIFAR, your arrays or your pictures, and watch it.

    convjax train
    convjax train NAME --data cifar10 --path cifar-10-batches-bin

NAME is one of ``models.list()``; the network is given the images' channels and as many outputs as
there are classes. Without a name it is He et al.'s residual network for small images, of 8 layers
and 16 channels. The defaults are the digits': depth, decay and mixup were chosen on blocks of 360
training images held out; they are the third choice, and the first to reach 97 % of the test images
with each of the seeds 0 to 4. Other data want others; CIFAR-10 for instance
``--steps 16000 --weight-decay 5e-4 --mixup 0 --crop 4 --flip True --average 0.999``.

Data, all of it on your disk:

- digits: 8x8, out of scikit-learn; the last 360, written by others, are for testing.
- mnist, fashion-mnist: the four idx files in ``--path``, packed by gzip or not; Fashion-MNIST is
  found without it where Debian's package dataset-fashion-mnist puts it.
- cifar10, cifar100: ``--path`` holds the files of the binary or the Python version.
- npz: ``--path`` is a file with ``x_train``, ``y_train``, ``x_test``, ``y_test``, or with
  ``images`` and ``labels``, of which ``--share`` is held out.
- folder: ``--path`` holds class folders, of which ``--share`` is held out, or ``train`` and
  ``test`` with class folders each; the pictures are kept in memory.
- stream: ``--path`` holds ``train`` and ``val``, as ImageNet's does; ``--readers`` processes read.

Every field of ``train.Recipe`` is an option, and may stand in a TOML file, ``--config``. A run has
a folder in that of the results, NAME-DATA-SEED, which keeps ``metrics.jsonl``, checkpoints,
``waterfall.png`` (the gradient of every layer at every watched step, redrawn while it trains) and,
asked for by ``--tensorboard True``, events for TensorBoard. Ctrl-C stops a run. The same command
goes on from the last checkpoint, and ends with the bits of a run that was never stopped.
``--seeds 5`` trains five, one after the other in this process, or as ``--runner`` says. At the end
``train.parquet`` and a figure are written, of all of them together.

Pass: every loss is finite; after an epoch and 20 steps or more, the last tenth's mean loss is lower
than the first's; and with ``--reach`` the test accuracy at the end, of the averaged weights where
they are kept. Runs without options must reach 97 % on the digits within two minutes on two cores,
compilation included. Of several runs, each must.

NaN or infinity ends a run with exit code 1; the message names step, unit and checkpoint.

A run without options takes 25 to 28 seconds of processor time.
"""

from convjax import _room
from convjax.lab.train._columns import accuracies as accuracies
from convjax.lab.train._columns import accuracy_reached as accuracy_reached
from convjax.lab.train._columns import draw as draw
from convjax.lab.train._columns import fact as fact
from convjax.lab.train._columns import finite_and_falling as finite_and_falling
from convjax.lab.train._columns import layers as layers
from convjax.lab.train._columns import scores as scores
from convjax.lab.train._columns import speed as speed
from convjax.lab.train._columns import stacked as stacked
from convjax.lab.train._columns import table as table
from convjax.lab.train._options import HARMLESS as HARMLESS
from convjax.lab.train._options import Flag as Flag
from convjax.lab.train._options import Runs as Runs
from convjax.lab.train._options import Training as Training
from convjax.lab.train._options import in_full as in_full
from convjax.lab.train._options import seeds_of as seeds_of
from convjax.lab.train._question import SHOWS as SHOWS
from convjax.lab.train._question import Config as Config
from convjax.lab.train._question import cells as cells
from convjax.lab.train._question import judge as judge
from convjax.lab.train._question import measure as measure
from convjax.lab.train._run import Subject as Subject
from convjax.lab.train._run import carried_out as carried_out
from convjax.lab.train._run import look_at as look_at
from convjax.lab.train._run import subject as subject

_room.show(globals())
