"""Checkpoints: the state of a run on disk, whole or not at all, and never another one's."""

import contextlib
import errno
import json
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

from convjax import _check
from convjax._check import instance, integer, wrong_type
from convjax.train import _damage, _host

WHOLE = re.compile(r"0|[1-9]\d*")
# What a killed process left: checkpoints half written or half removed.
STRAY = re.compile(r"\d+\..+")
STATE = "state"
# What is said below Python, where an error has no number.
FULL = ("No space left on device", "Disk quota exceeded")


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
        self._keep = integer("keep", keep, 1)
        if about is not None:
            instance("about", about, Mapping, "a mapping, or None")
        try:
            self._about = json.loads(json.dumps(about))
        except (TypeError, ValueError) as error:
            raise ValueError(f"about must be what JSON can hold: {error}") from error
        self._folder = writable(folder)
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
          OSError: there was no space for the save before, see ``wait``.
          ValueError: a negative step; a leaf of which this process holds only a part.
        """
        step = integer("step", step, 0)
        self.wait()
        leaves = _host.leaves_of(state)
        for name, leaf in leaves.items():
            instance(f"state{name}", leaf, jax.Array, "a JAX array")
            if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
                raise ValueError(f"state{name} must be held whole by every process, not in parts")
        if jax.process_index() == 0:
            kinds = {name: _damage.kind_of(leaf) for name, leaf in leaves.items()}
            arrays = _host.copies(leaves)
            self._under_way = self._worker.submit(self._write, step, kinds, arrays)

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Return step and state of the newest checkpoint that is whole, or None.

        One that is not is named in a UserWarning, and may be overwritten by a later ``save``.

        Args:
          like: a pytree of arrays or ``jax.ShapeDtypeStruct``; the state returned has its
            structure, dtypes and shardings.

        Returns:
          ``(step, state)``, or None where there is none.

        Raises:
          ValueError: the checkpoint is another run's, by ``about`` or by its leaves; the message
            names the first that differs and both values. Nothing is changed.
        """
        wanted = _host.leaves_of(like)
        for name, leaf in wanted.items():
            if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
                wrong_type(f"like{name}", leaf, "an array or a jax.ShapeDtypeStruct")
        self.wait()
        _host.least(0)  # no process looks before the first one has written
        untried, refused, arrays = list(self.steps), {}, None
        while (step := _host.least(untried[-1] if untried else -1)) >= 0:
            untried = [other for other in untried if other < step]
            try:
                arrays, why = self._read(step, wanted), "another process says so"
            except _damage.DamagedError as error:
                arrays, why = None, str(error)
            if _host.least(arrays is not None):
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
            self.wait()
        finally:
            self._worker.shutdown()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Return when what is under way is on the disk; raise what went wrong in it.

        Raises:
          OSError: the disk is full; the message names the folder, what is needed and what is free,
            and the checkpoints from before stay.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def _write(self, step: int, kinds: dict[str, str], arrays: dict[str, np.ndarray]) -> None:
        unborn = self._folder.absolute() / f"{step}.saving"
        try:
            self._write_whole(step, unborn, kinds, arrays)
        except Exception as error:
            if not full(error):
                raise
            shutil.rmtree(unborn, ignore_errors=True)
            needed = sum(array.nbytes for array in arrays.values())
            kept = f"; that of step {self.steps[-1]} stays" if self.steps else ""
            raise OSError(
                errno.ENOSPC,
                f"No space left on device: the checkpoint of step {step} needs {needed:,} bytes, "
                f"of which {shutil.disk_usage(self._folder).free:,} are free{kept}",
                str(self._folder),
            ) from error

    def _write_whole(
        self, step: int, unborn: Path, kinds: dict[str, str], arrays: dict[str, np.ndarray]
    ) -> None:
        path = unborn.with_name(str(step))
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
        if why := self._foreign(record, like):
            raise ValueError(
                f"the checkpoint of step {step} in {str(self._folder)!r} is another run's: {why}; "
                "choose another folder"
            )
        with _orbax() as (orbax, ocp):
            full = {k: ocp.RestoreArgs(restore_type=np.ndarray) for k in like if like[k].size}
            read = orbax.restore(path / STATE, args=ocp.args.PyTreeRestore(restore_args=full))
        empty = {k: np.zeros(leaf.shape, leaf.dtype) for k, leaf in like.items() if not leaf.size}
        return {name: (empty if name in empty else read)[name] for name in like}

    def _foreign(self, record: Mapping[str, Any], like: Mapping[str, Any]) -> str:
        """Say in what a checkpoint, which is whole, differs from what is expected here, or ""."""
        about = record["about"] or {}
        if self._about is None or not (found := _damage.first_difference(about, self._about)):
            return _damage.other_leaf(record["leaves"], like)
        key, saved, given = found
        unknown = " (an earlier version of convjax may not have noted it)"
        return f"{key!r} is {saved} there and {given} here{unknown if saved == 'absent' else ''}"


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


def full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it comes from, says that there is no space on the disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def writable(folder: Any) -> Path:
    """Make a folder if it is not there, and see that a file can be written in it."""
    folder = _check.path("folder", folder)
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
