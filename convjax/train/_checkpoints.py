"""Checkpoints: the state of a run on disk, whole or not at all, and never another one's."""

import contextlib
import json
import operator
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from convjax.train import _damage, _host

WHOLE = re.compile(r"0|[1-9]\d*")
# What a killed process left: checkpoints half written or half removed.
STRAY = re.compile(r"\d+\..+")
STATE = "state"


class Checkpoints:
    """The checkpoints of one run, in one folder, by orbax.

    ``save`` copies the state and returns; the rest happens in another thread. A checkpoint appears
    under its name in one instant, when it is whole. It holds a digest of every file: what is
    restored is, to the bit, what was saved, or it is refused and the checkpoint before is taken.

    With ``jax.distributed`` every process makes the same calls, on a folder that all of them see;
    the first process writes, so every process must hold the state whole, as replicas.

    Args:
      folder: where they are; made if it is not there.
      keep: how many to keep; older ones are removed once a newer one is whole.
      about: what JSON can hold and what another run differs in: network, recipe, data. It is
        stored with every checkpoint, and ``restore`` refuses what another run wrote. None is not
        compared.

    Raises:
      ValueError: a folder that is a file or cannot be written into, ``keep`` below 1, an ``about``
        that JSON cannot hold.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> from convjax import train
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with train.Checkpoints(folder, about={"net": "a"}) as checkpoints:
      ...         checkpoints.save(7, {"w": jnp.arange(3)})
      ...         step, state = checkpoints.restore({"w": jnp.zeros(3, int)})
      >>> step, state["w"].tolist()
      (7, [0, 1, 2])
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        keep: int = 2,
        about: Mapping[str, Any] | None = None,
    ):
        if keep < 1:
            raise ValueError(f"keep={keep} must be 1 or more")
        try:
            self._about = json.loads(json.dumps(about))
        except (TypeError, ValueError) as error:
            raise ValueError(f"about must be what JSON can hold: {error}") from error
        self._folder = _writable(Path(folder))
        self._keep = keep
        self._refused: set[int] = set()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._under_way: Future[None] | None = None

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self._folder

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of which there is a checkpoint, ascending; whether whole shows on restoring."""
        names = [entry.name for entry in self._folder.iterdir() if entry.is_dir()]
        return tuple(sorted(int(name) for name in names if WHOLE.fullmatch(name)))

    def save(self, step: int, state: Any) -> None:
        """Copy the state and write it in another thread, in the place of one of the same step.

        When this returns, the state's buffers may be donated. Before, it waits for the save under
        way, if any, so that no more than one copy is held.

        Args:
          step: the number under which ``restore`` will give it back.
          state: a pytree of JAX arrays.

        Raises:
          ValueError: a negative step; a leaf of which this process holds only a part.
        """
        step = operator.index(step)
        if step < 0:
            raise ValueError(f"step={step} must not be negative")
        self._wait()
        leaves = _host.leaves_of(state)
        for name, leaf in leaves.items():
            if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
                raise ValueError(f"state{name} must be held whole by every process, not in parts")
        if jax.process_index() == 0:
            kinds = {name: _damage.kind_of(leaf) for name, leaf in leaves.items()}
            arrays = _host.copies(leaves)
            self._under_way = self._worker.submit(self._write, step, kinds, arrays)

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Return step and state of the newest checkpoint that is whole, or None.

        One that is not, or does not have the leaves of ``like``, is named in a UserWarning.

        Args:
          like: a pytree of arrays or ``jax.ShapeDtypeStruct``; the state returned has its
            structure, dtypes and shardings.

        Returns:
          ``(step, state)``, or None where there is none.

        Raises:
          ValueError: the checkpoint is another run's, by ``about``; the message names the first
            key that differs and both values.
        """
        self._wait()
        _least(0)  # no process looks before the first one has written
        untried, refused, arrays = list(self.steps), {}, None
        while (step := _least(untried[-1] if untried else -1)) >= 0:
            untried = [other for other in untried if other < step]
            try:
                arrays, why = self._read(step, _host.leaves_of(like)), "another process says so"
            except _damage.DamagedError as error:
                arrays, why = None, str(error)
            if _least(arrays is not None):
                break
            refused[step], arrays = why, None
        self._refused |= set(refused)
        for other, why in refused.items():
            warnings.warn(
                f"the checkpoint of step {other} in {str(self._folder)!r} is refused: {why}; going "
                f"on from {'the beginning' if arrays is None else f'step {step}'}",
                stacklevel=2,
            )
        if arrays is None:
            return None
        leaves, structure = jax.tree.flatten(like)
        placed = [_host.placed(*pair) for pair in zip(arrays.values(), leaves, strict=True)]
        return step, jax.tree.unflatten(structure, placed)

    def close(self) -> None:
        """Wait for what is under way; raise what went wrong in it."""
        try:
            self._wait()
        finally:
            self._worker.shutdown()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def _write(self, step: int, kinds: dict[str, str], arrays: dict[str, np.ndarray]) -> None:
        path = self._folder.absolute() / str(step)
        unborn = path.with_name(f"{step}.saving")
        shutil.rmtree(unborn, ignore_errors=True)
        with _orbax() as (orbax, ocp):
            # orbax refuses arrays without elements.
            full = {name: array for name, array in arrays.items() if array.size}
            orbax.save(unborn / STATE, args=ocp.args.PyTreeSave(full))
        _damage.write_record(unborn, step, self._about, kinds)
        self._set_aside(step)
        unborn.rename(path)
        self._refused.discard(step)
        self._prune(step)

    def _prune(self, newest: int) -> None:
        """Remove what the checkpoint of this step, now whole, has made needless."""
        older = [step for step in self.steps if step < newest]
        whole = [step for step in older if step not in self._refused]
        kept = whole[max(0, len(whole) - self._keep + 1) :]
        for step in set(older) - set(kept):
            self._set_aside(step)
        for entry in self._folder.iterdir():
            if STRAY.fullmatch(entry.name):
                shutil.rmtree(entry, ignore_errors=True)

    def _set_aside(self, step: int) -> None:
        """Let a checkpoint, if there is one, no longer look like one, in one instant."""
        path = self._folder / str(step)
        if path.exists():
            doomed = path.with_name(f"{step}.removed")
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)

    def _read(self, step: int, like: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the leaves of a checkpoint in the order of ``like``, all verified."""
        path = self._folder.absolute() / str(step)
        record = _damage.read_record(path, step)
        if self._about is not None and (
            found := _damage.first_difference(record["about"] or {}, self._about)
        ):
            key, saved, given = found
            raise ValueError(
                f"the checkpoint of step {step} in {str(self._folder)!r} is another run's: {key!r} "
                f"is {saved} there and {given} here; choose another folder"
            )
        _damage.check_kinds(record["leaves"], like)
        with _orbax() as (orbax, ocp):
            full = {k: ocp.RestoreArgs(restore_type=np.ndarray) for k in like if like[k].size}
            read = orbax.restore(path / STATE, args=ocp.args.PyTreeRestore(restore_args=full))
        empty = {k: np.zeros(leaf.shape, leaf.dtype) for k, leaf in like.items() if not leaf.size}
        return {name: (empty if name in empty else read)[name] for name in like}


@contextlib.contextmanager
def _orbax() -> Iterator[tuple[Any, Any]]:
    """Open orbax's checkpointer for this process alone, so that it waits for no other."""
    import orbax.checkpoint as ocp

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    # Trained weights hardly compress, and it would take a core from training.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as orbax:
        yield orbax, ocp


def _least(value: int) -> int:
    """Return the least of what the processes say."""
    if jax.process_count() == 1:
        return int(value)
    return int(np.min(multihost_utils.process_allgather(np.int32(value))))


def _writable(folder: Path) -> Path:
    """Make a folder if it is not there, and see that a file can be written in it."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder={str(folder)!r} is a file; checkpoints need a folder")
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"probe")
        probe.unlink(missing_ok=True)  # another host's process may have the same number
    except OSError as error:
        raise ValueError(f"cannot write into folder={str(folder)!r}: {error.strerror}") from error
    return folder
