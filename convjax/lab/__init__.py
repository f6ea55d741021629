"""A question in a file: its cells and seeds, criteria and verdict, table, figure, report, command.

Many networks of each kind at initialization (``ensembles``), or anything else that can be measured
cell by cell (``Experiment``). Needs ``pip install "convjax[lab]"``.
"""

from convjax import _room
from convjax.lab._checks import check_known as check_known
from convjax.lab._checks import check_least as check_least
from convjax.lab._checks import check_positive as check_positive
from convjax.lab._checks import check_several as check_several
from convjax.lab._checks import unknown as unknown
from convjax.lab._classifier import Classifier as Classifier
from convjax.lab._classifier import check_depths as check_depths
from convjax.lab._classifier import cross_entropy as cross_entropy
from convjax.lab._columns import Columns as Columns
from convjax.lab._columns import array as array
from convjax.lab._columns import beside as beside
from convjax.lab._columns import joined as joined
from convjax.lab._columns import pick as pick
from convjax.lab._columns import stack as stack
from convjax.lab._compile import compiled as compiled
from convjax.lab._compile import compiler_options as compiler_options
from convjax.lab._criteria import Criterion as Criterion
from convjax.lab._criteria import digits as digits
from convjax.lab._criteria import that as that
from convjax.lab._criteria import within as within
from convjax.lab._criteria import within_errors as within_errors
from convjax.lab._ensemble import Ensemble as Ensemble
from convjax.lab._ensemble import as_rows as as_rows
from convjax.lab._ensemble import by_kind as by_kind
from convjax.lab._ensemble import log_ratios as log_ratios
from convjax.lab._ensemble import map_seeds as map_seeds
from convjax.lab._ensemble import measure as measure
from convjax.lab._ensemble import unit_gains as unit_gains
from convjax.lab._experiment import Experiment as Experiment
from convjax.lab._experiment import criteria as criteria
from convjax.lab._experiment import experiment as experiment
from convjax.lab._experiment import measure_all as measure_all
from convjax.lab._experiment import parts as parts
from convjax.lab._find import load as load
from convjax.lab._find import questions as questions
from convjax.lab._initialization import ensembles as ensembles
from convjax.lab._layers import layers as layers
from convjax.lab._means import Mean as Mean
from convjax.lab._means import grouped as grouped
from convjax.lab._means import worst as worst
from convjax.lab._options import CommandOptions as CommandOptions
from convjax.lab._options import UsageError as UsageError
from convjax.lab._options import cell_of as cell_of
from convjax.lab._options import parse as parse
from convjax.lab._options import refusing as refusing
from convjax.lab._options import speaking_plainly as speaking_plainly
from convjax.lab._options import use_platform as use_platform
from convjax.lab._outcome import conclude as conclude
from convjax.lab._pictures import pictures as pictures
from convjax.lab._progress import Ticker as Ticker
from convjax.lab._ratios import against_theory as against_theory
from convjax.lab._ratios import ratios as ratios
from convjax.lab._run import Options as Options
from convjax.lab._run import check_effect as check_effect
from convjax.lab._run import run as run
from convjax.lab._run import run_config as run_config
from convjax.lab._seeds import Seeds as Seeds
from convjax.lab._seeds import Trainer as Trainer
from convjax.lab._series import series as series
from convjax.lab._tables import console as console
from convjax.lab._tables import formatted_table as formatted_table
from convjax.lab._tables import plain_table as plain_table

_room.show(globals())
