"""Several processes, on one machine or many, that share a run."""

from collections.abc import Mapping
from typing import Any

import jax

from convjax import _check

WAYS = "Slurm, Open MPI, Kubernetes or a TPU pod"


def distributed(
    address: str | None = None,
    *,
    processes: int | None = None,
    process: int | None = None,
    timeout: int = 300,
    heartbeat: int = 100,
) -> None:
    """Join the processes of a run; call it in each of them, before anything else of JAX.

    Afterwards ``jax.devices()`` are those of all processes, and ``train.fit``, called by every
    process with the same arguments, shares each batch among them. A folder must be one that all of
    them see; the first process alone writes into it. What else only one process is to do, such as a
    progress bar, is for the program to leave to ``jax.process_index() == 0``.

    Under Slurm, Open MPI, Kubernetes (with the package ``kubernetes``) and on TPU pods JAX finds
    the processes by itself, so no argument is needed; under Slurm and Open MPI each process then
    takes one device. Anywhere else all three of ``address``, ``processes`` and ``process`` are, and
    a process takes the devices that it sees, as ``CUDA_VISIBLE_DEVICES`` limits them.

    A process that has joined already may call it again; nothing happens. Where the others do not
    come in time, or where one of them dies, JAX ends this process: a run is then started again with
    the same folder.

    Args:
      address: ``"host:port"`` of the first process, as the others reach it; a free port there.
      processes: how many there are.
      process: which this one is, from 0 on.
      timeout: seconds to wait for the others.
      heartbeat: seconds of silence after which a process counts as dead.

    Raises:
      ValueError: some of the three arguments without the others, or out of range; none, where JAX
        detects no cluster.
      RuntimeError: JAX has computed something or made an array already.

    Example:
      >>> from convjax import train
      >>> train.distributed("10.0.0.1:1234", processes=2, process=2)
      Traceback (most recent call last):
      ValueError: process=2 must lie between 0 and 1, for processes=2
    """
    timeout = _check.integer("timeout", timeout, 1)
    heartbeat = _check.integer("heartbeat", heartbeat, 1)
    named = _checked({"address": address, "processes": processes, "process": process})
    if jax.distributed.is_initialized():
        return
    limits: dict[str, Any] = {
        "initialization_timeout": timeout,
        "heartbeat_timeout_seconds": heartbeat,
    }
    if named:
        # Else JAX would look for a cluster all the same, to take one device a process.
        limits["cluster_detection_method"] = "deactivate"
    try:
        jax.distributed.initialize(*named, **limits)
    except ValueError as error:
        if named:
            raise
        raise ValueError(
            f"no cluster was detected ({WAYS}): {error} Give address='host:port', processes=… and "
            "process=… in every process"
        ) from error


def _checked(given: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return how the caller names the processes, or nothing; refuse what names them in part."""
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return ()
    if missing:
        named = ", ".join(f"{name}={given[name]!r}" for name in given if name not in missing)
        raise ValueError(f"{named} without {' and '.join(missing)}: give all three, or none")
    address = _check.instance("address", given["address"], str, "'host:port'")
    processes = _check.integer("processes", given["processes"], 1)
    process = _check.integer("process", given["process"])
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"address={address!r} must be 'host:port'")
    if not 0 <= process < processes:
        raise ValueError(
            f"process={process} must lie between 0 and {processes - 1}, for processes={processes}"
        )
    return address, processes, process
