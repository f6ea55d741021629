"""How signal and gradient travel through a network: measured at every unit."""

from convjax import _room
from convjax.gradflow import oracles as oracles
from convjax.gradflow._along import along as along
from convjax.gradflow._compare import Compared as Compared
from convjax.gradflow._compare import Comparison as Comparison
from convjax.gradflow._compare import compare as compare
from convjax.gradflow._correlation import Correlation as Correlation
from convjax.gradflow._correlation import Line as Line
from convjax.gradflow._correlation import correlation as correlation
from convjax.gradflow._correlation import line as line
from convjax.gradflow._growth import Growth as Growth
from convjax.gradflow._growth import growth as growth
from convjax.gradflow._homogeneous import homogeneous as homogeneous
from convjax.gradflow._lesions import lesions as lesions
from convjax.gradflow._noise import NoiseScale as NoiseScale
from convjax.gradflow._noise import noise_scale as noise_scale
from convjax.gradflow._noise import noise_scale_from_norms as noise_scale_from_norms
from convjax.gradflow._norm import Norm as Norm
from convjax.gradflow._paths import Paths as Paths
from convjax.gradflow._paths import paths as paths
from convjax.gradflow._per_example import PerExample as PerExample
from convjax.gradflow._per_example import per_example_norms as per_example_norms
from convjax.gradflow._predict import Expected as Expected
from convjax.gradflow._predict import Prediction as Prediction
from convjax.gradflow._predict import predict as predict
from convjax.gradflow._profile import Profile as Profile
from convjax.gradflow._profile import profile as profile
from convjax.gradflow._ratios import Ratios as Ratios
from convjax.gradflow._ratios import relative_gradients as relative_gradients
from convjax.gradflow._ratios import update_ratios as update_ratios
from convjax.gradflow._scale_coefficient import GradientScale as GradientScale
from convjax.gradflow._scale_coefficient import (
    gradient_scale_coefficient as gradient_scale_coefficient,
)
from convjax.gradflow._spectrum import Spectrum as Spectrum
from convjax.gradflow._spectrum import spectrum as spectrum
from convjax.gradflow._table import COLUMNS as COLUMNS
from convjax.gradflow._tapped import squares as squares
from convjax.gradflow._tapped import tapped as tapped
from convjax.gradflow._tapped import tokens as tokens
from convjax.gradflow._tapped import trunk as trunk
from convjax.gradflow._theory._run import expected as expected
from convjax.gradflow._unit import Addition as Addition
from convjax.gradflow._unit import Unit as Unit

_room.show(globals())
