"""A JAX function read as a program: the one home of the half-public parts of JAX."""

from convjax._trace._flow import Flow as Flow
from convjax._trace._program import ACTIVATIONS as ACTIVATIONS
from convjax._trace._program import PLAIN as PLAIN
from convjax._trace._program import WRITTEN_OUT as WRITTEN_OUT
from convjax._trace._program import Program as Program
from convjax._trace._program import axes as axes
from convjax._trace._program import bind as bind
from convjax._trace._program import body as body
from convjax._trace._program import carried as carried
from convjax._trace._program import from_zeros as from_zeros
from convjax._trace._program import is_of_jax as is_of_jax
from convjax._trace._program import is_variable as is_variable
from convjax._trace._program import name_of as name_of
from convjax._trace._program import on_numbers as on_numbers
from convjax._trace._program import scopes as scopes
from convjax._trace._program import sources as sources
from convjax._trace._program import subprograms as subprograms
from convjax._trace._program import tell_nan as tell_nan
from convjax._trace._program import trace as trace
from convjax._trace._program import words as words
from convjax._trace._rewrite import evaluate as evaluate
from convjax._trace._rewrite import is_array as is_array
from convjax._trace._rewrite import jit_options as jit_options
from convjax._trace._rewrite import rewrite as rewrite
