"""Weights from the Hugging Face hub: the one place that touches a network, and only when asked."""

import os
import re
from pathlib import Path

from convjax._check import MissingPackageError, instance
from convjax.models._weights._formats import of_hub, shards_of

PREFIXES = ("hf_hub:", "hf-hub:")  # timm's
UNREACHABLE = "the hub cannot be reached"
REASONS = {
    "GatedRepoError": "it is open only to those who accepted its conditions there",
    "RepositoryNotFoundError": "there is no such repository, or it is private",
    "RevisionNotFoundError": "the repository has no such revision",
    "EntryNotFoundError": "the repository has no such file",
    "OfflineModeIsEnabled": "offline mode is on, and the file is not in the cache",
    # Of the two HTTP libraries that huggingface_hub has been built on.
    "ConnectError": UNREACHABLE,
    "ConnectionError": UNREACHABLE,
    "TimeoutException": UNREACHABLE,
    "Timeout": UNREACHABLE,
}


def name_of(repo_id: str) -> str:
    """Return the network's name in a repository's: what stands before the first dot.

    Args:
      repo_id: such as ``"timm/resnet50.a1_in1k"``, with or without timm's prefix ``hf_hub:``.

    Returns:
      The name that ``models.create`` takes.

    Raises:
      ValueError: what is not ``owner/name``.

    Example:
      >>> from convjax.models._weights._hub import name_of
      >>> name_of("hf_hub:timm/resnet50.a1_in1k")
      'resnet50'
    """
    return _plain(repo_id).partition("/")[2].partition(".")[0]


def fetch(
    repo_id: str, *, filename: str = "model.safetensors", revision: str | None = None
) -> Path:
    """Return the path of a repository's file, fetched once into the hub's own cache.

    The hub is asked once, for at most the ten seconds of ``HF_HUB_ETAG_TIMEOUT``. Where it does not
    answer, a file fetched earlier serves. ``HF_ENDPOINT`` names another hub.

    Args:
      repo_id: such as ``"timm/resnet50.a1_in1k"``, with or without timm's prefix ``hf_hub:``.
      filename: the file in it.
      revision: a branch, tag or commit; None means the newest.

    Returns:
      The file in the cache.

    Raises:
      ImportError: huggingface_hub is not installed; and a ValueError.
      ValueError: no network, no such repository, file or revision; the sentence tells how to fetch
        the file by hand.

    Example:
      >>> from convjax.models._weights._hub import fetch
      >>> fetch("resnet50")
      Traceback (most recent call last):
      ...
      ValueError: repo_id='resnet50' is not owner/name, such as 'timm/resnet50.a1_in1k'
    """
    repo_id = _plain(repo_id)
    if revision is not None:
        instance("revision", revision, str, "a branch, tag or commit, or None for the newest")
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    page = f"{endpoint or 'https://huggingface.co'}/{repo_id}/tree/{revision or 'main'}"
    remedy = f"fetch {filename} by hand from {page}"
    if not filename.endswith(".json"):
        remedy += f" and call models.load_weights(net, {filename!r})"
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise MissingPackageError(
            f"repo_id={repo_id!r}: huggingface_hub is not installed; "
            f"pip install convjax[weights], or {remedy}"
        ) from error
    absent = None
    try:
        url = hub.hf_hub_url(repo_id, filename, revision=revision, endpoint=endpoint)
        absent = _unreachable(hub, url)
        path = hub.hf_hub_download(
            repo_id,
            filename,
            revision=revision,
            endpoint=endpoint,
            # Asked by itself, the download retries an absent hub for minutes.
            local_files_only=absent is not None,
        )
    except Exception as error:  # of the hub, of its HTTP library, or of the disk
        raise ValueError(
            f"repo_id={repo_id!r}: {filename} could not be fetched "
            f"({_reason(absent or error)}); {remedy}"
        ) from error
    return Path(path)


def fetch_weights(
    repo_id: str, *, filename: str | None = None, revision: str | None = None
) -> Path:
    """Return the path of a repository's weights, under whatever name they stand there.

    It is ``model.safetensors`` where there is one, else another of the names that the hub's
    libraries write, else the one file of weights that there is. Of a sharded checkpoint all files
    are fetched, and the index is returned.

    Args:
      repo_id: as in ``fetch``.
      filename: the file; None for what is said above.
      revision: as in ``fetch``.

    Raises:
      ImportError: as in ``fetch``.
      ValueError: as in ``fetch``; and several files, of which nothing says which one is meant.
    """
    try:
        path = fetch(repo_id, filename=filename or "model.safetensors", revision=revision)
    except MissingPackageError:
        raise
    except ValueError as error:
        if filename is not None:
            raise
        # Asked for a list, an absent hub is waited for half a minute.
        answers = UNREACHABLE not in str(error)
        found = of_hub(_files(_plain(repo_id), revision, answers=answers))
        if not found:
            raise
        if len(found) > 1:
            shown = ", ".join(found[:8])
            raise ValueError(
                f"repo_id={repo_id!r} holds {len(found)} files of weights, {shown}; "
                f"say which one, such as filename={found[0]!r}"
            ) from error
        path = fetch(repo_id, filename=found[0], revision=revision)
    if path.name.endswith(".index.json"):
        try:
            shards = shards_of(path)
        except ValueError as error:
            raise ValueError(f"repo_id={repo_id!r}: {path.name}: {error}") from error
        for shard in shards:
            fetch(repo_id, filename=shard, revision=revision)
    return path


def _files(repo_id: str, revision: str | None, *, answers: bool) -> list[str]:
    """Return the names of a repository's files, or of those in the cache; none where it fails."""
    import huggingface_hub as hub

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    try:
        if answers:
            return hub.HfApi(endpoint=endpoint).list_repo_files(repo_id, revision=revision)
    except Exception:  # whatever it is, files in the cache serve
        pass
    try:
        return os.listdir(hub.snapshot_download(repo_id, revision=revision, local_files_only=True))
    except Exception:
        return []


def _unreachable(hub, url: str) -> Exception | None:
    """Ask for the file's size alone; return what went wrong."""
    from huggingface_hub import constants

    try:
        hub.get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # whatever it is, a cached file serves
        return error
    return None


def _reason(error: Exception) -> str:
    named = (REASONS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in REASONS)
    first = (str(error).splitlines() or [""])[0]
    return next(named, None) or f"{type(error).__name__}: {first[:160]}"


def _plain(repo_id: str) -> str:
    """Drop timm's prefix, and refuse what is not ``owner/name``."""
    plain = instance("repo_id", repo_id, str, "owner/name, such as 'timm/resnet50.a1_in1k'")
    for prefix in PREFIXES:
        plain = plain.removeprefix(prefix)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", plain):
        here = "; models.create(name, weights=…) takes a folder" if os.path.exists(plain) else ""
        raise ValueError(
            f"repo_id={repo_id!r} is not owner/name, such as 'timm/resnet50.a1_in1k'{here}"
        )
    return plain
