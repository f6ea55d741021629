"""PyTorch's files: checkpoints, read by its ``weights_only`` loader alone."""

import itertools
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

# timm's order. A moving average of the weights comes first: it is what training scripts evaluate
# and publish, and what timm itself takes out of the same file.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
CODE = 2**20


def read_torch(path: Path) -> dict[str, Any]:
    """Return the state dict of a checkpoint; nothing in the file is executed.

    A checkpoint that holds its state dict under one of ``WRAPPERS`` is unwrapped; what stands
    beside it (epoch, optimiser, …) is passed over unless it is an array.

    Args:
      path: a .pth, .pt or .bin file.

    Returns:
      Tensors by name.

    Raises:
      ImportError: PyTorch is not installed.
      ValueError: objects other than arrays, or no state dict.
    """
    import torch  # pyright: ignore[reportMissingImports]

    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, and of TorchScript
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"PyTorch's weights_only loader refuses it{_culprit(error)}: it holds more than "
            "arrays, or it is damaged; where you trust it, save its state_dict() alone"
        ) from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise ValueError("a TorchScript archive; save the network's state_dict()") from error
        raise
    return _state_dict(content, torch.Tensor)


def _check_archive(path: Path) -> None:
    """Refuse an archive that torch.save did not write, or that holds less than it declares."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if not any(entry.filename.endswith("data.pkl") for entry in entries):
        raise ValueError("a zip archive that torch.save did not write")
    # torch.save compresses nothing but code, and no two of its entries share bytes.
    declared, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if declared > size + CODE:
        raise ValueError(f"its entries declare {declared} bytes, and the whole file has {size}")


def _culprit(error: Exception) -> str:
    found = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.[\w.]+)", str(error))
    return f" because of {found[1]}" if found else ""


def _state_dict(content: Any, tensor: type) -> dict[str, Any]:
    for depth in itertools.count():
        if not isinstance(content, Mapping):
            break
        wrapper = next((w for w in WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if wrapper is None:
            break
        if depth == len(WRAPPERS):
            raise ValueError(f"its {wrapper!r} holds itself, or another wrapper, again and again")
        beside = [k for k, v in content.items() if isinstance(v, tensor) and v.ndim]
        if beside:
            raise ValueError(f"beside its {wrapper!r} it holds the arrays {', '.join(beside)}")
        content = content[wrapper]
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise ValueError(f"it holds one {kind}, not a state dict; save the network's state_dict()")
    return dict(content)


def drop_module_prefix(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drop the prefix that PyTorch's parallel and averaging wrappers give to all names."""
    names = [name for name in arrays if name != "n_averaged"]  # the average's own counter
    if not names or not all(name.startswith("module.") for name in names):
        return arrays
    return {name.removeprefix("module."): arrays[name] for name in names}


def of_tensor(tensor: Any) -> Any:
    """Return a PyTorch tensor as NumPy's, bfloat16 and float8 included."""
    import torch  # pyright: ignore[reportMissingImports]

    tensor = tensor.detach().cpu()
    own = getattr(ml_dtypes, str(tensor.dtype).removeprefix("torch."), None)
    if own is None:
        return tensor.numpy()
    bits = {1: torch.uint8, 2: torch.int16}[tensor.element_size()]
    return tensor.view(bits).numpy().view(own)
