"""Real data: a package's own, or a folder of pictures; and noise. Nothing is downloaded."""

from convjax.data._batches import batch_indices as batch_indices
from convjax.data._digits import digits as digits
from convjax.data._gaussian import gaussian as gaussian
from convjax.data._images import ImageFolder as ImageFolder
from convjax.data._images import image_folder as image_folder
