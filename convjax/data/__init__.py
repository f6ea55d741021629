"""Real data that ships with a package, and noise of its shape; nothing is downloaded."""

from convjax.data._batches import batch_indices as batch_indices
from convjax.data._digits import digits as digits
from convjax.data._gaussian import gaussian as gaussian
