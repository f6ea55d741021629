"""Grids of runs and their tables: kept safely, found again, and with what they were made by."""

from convjax.study._environment import environment as environment
from convjax.study._groups import groups as groups
from convjax.study._memory import keep_memory as keep_memory
from convjax.study._memory import keeping_memory as keeping_memory
from convjax.study._parquet import check_writable as check_writable
from convjax.study._parquet import read_parquet as read_parquet
from convjax.study._parquet import write_parquet as write_parquet
