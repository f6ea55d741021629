"""PyTorch's side of the benchmarks: times computations when asked.

A script for any Python that has torch and NumPy; it knows neither JAX nor this package. It says
which versions it has, and then answers requests until there are no more, all in lines of JSON:

    {"torch": "2.13.0", "threads": 2, ...}
    {"spec": {"what": ...}, "layout": "contiguous", "backward": true, "count": 3}
    {"seconds": 0.012}

A request that fails is answered by {"error": "..."}. The seconds are those of all runs together.
What was made for the last specification is kept. With "device": "cuda" it runs there, and its
float32 products are of TF32 where the card has them, as JAX's are; with "compiled": true it goes
through torch.compile.
"""

import functools
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

# After this time, threads that wait for work have stopped spinning and disturb nobody.
SETTLE_S = 0.004
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
OF_THREE_AXES = {**LAYOUTS, "channels_last": torch.channels_last_3d}
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),  # as jax.nn.gelu has it
    "silu": F.silu,
}


def function_of(spec: dict[str, Any]) -> Callable[..., Any]:
    """Return a computation; the gradient is taken with respect to all its arguments."""
    slide = spec["strides"], spec["padding"]
    window = spec["kernel_size"], *slide
    if spec["what"] == "activation":
        return ACTIVATIONS[spec["name"]]
    groups = dilation, count = spec["kernel_dilation"], spec["feature_group_count"]
    convolve, transpose = (
        (F.conv3d, F.conv_transpose3d) if spec["depth"] else (F.conv2d, F.conv_transpose2d)
    )
    return {
        "conv": lambda x, w: convolve(x, w, None, *slide, *groups),
        "conv_transpose": lambda x, w: transpose(x, w, None, *slide, 0, count, dilation),
        "batch_norm": lambda x, scale, bias: F.batch_norm(
            x, None, None, scale, bias, training=True, eps=1e-5
        ),
        "max_pool": lambda x: F.max_pool2d(x, *window),
        "avg_pool": lambda x: F.avg_pool2d(x, *window, count_include_pad=True),
        "global_avg_pool": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    }[spec["what"]]


def inputs(spec: dict[str, Any], layout: str, device: str = "cpu") -> list[Any]:
    """Return random arguments: the image, and a kernel, or scale and bias."""
    generator = torch.Generator(device).manual_seed(spec["seed"])
    channels = spec["in_features"]
    depth = (spec["depth"],) if spec["depth"] else ()
    shapes = [(spec["batch"], channels, *depth, spec["height"], spec["width"])]
    groups = spec["feature_group_count"]
    if spec["what"] == "conv":
        shapes.append((spec["out_features"], channels // groups, *spec["kernel_size"]))
    elif spec["what"] == "conv_transpose":
        shapes.append((channels, spec["out_features"] // groups, *spec["kernel_size"]))
    elif spec["what"] == "batch_norm":
        shapes += [(channels,)] * 2
    tensors = [
        torch.randn(shape, generator=generator, device=device).to(getattr(torch, spec["dtype"]))
        for shape in shapes
    ]
    formats = OF_THREE_AXES if depth else LAYOUTS
    tensors = [t.contiguous(memory_format=formats[layout]) if t.ndim > 3 else t for t in tensors]
    return [tensor.requires_grad_() for tensor in tensors]


@functools.lru_cache(maxsize=2 * len(LAYOUTS))
def prepared(
    text: str, layout: str, backward: bool, device: str = "cpu", compiled: bool = False
) -> Callable[[], Any]:
    """Return what is timed: forward without a graph, or forward and the gradient of sum(y g)."""
    spec = json.loads(text)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    if spec["what"] == "network":
        # One whole training step, in a file of its own beside this one; it has no half.
        del spec["what"]
        how = {"device": device, "compiled": compiled}
        return importlib.import_module("torch_networks").build(LAYOUTS[layout], **spec, **how)
    function, arguments = function_of(spec), inputs(spec, layout, device)
    if compiled:
        function = torch.compile(function)

    def forward() -> Any:
        with torch.no_grad():
            return function(*arguments)

    if not backward:
        return forward
    # Of y's own strides, so that the backward pass begins without a conversion.
    cotangent = torch.empty_like(forward()).normal_()

    def both() -> Any:
        y = function(*arguments)
        return y, *torch.autograd.grad(y, arguments, cotangent)

    return both


def seconds(
    spec: dict[str, Any], layout: str, backward: bool, count: int, device: str = "cpu", **how: bool
) -> float:
    """Return what ``count`` runs take together, until the device has done them."""
    run = prepared(json.dumps(spec), layout, backward, device, **how)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(count):
        run()
    wait()
    return time.perf_counter() - start


def listen() -> None:
    """Serve on standard input and output, on all processors that the process may use."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers
    here = str(Path(__file__).parent)
    sys.path.append(here)
    importlib.import_module("torch_networks")
    # This folder's profile.py would hide Python's own, which PyTorch imports.
    sys.path[:] = [path for path in sys.path if path != here]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(cores or 1)
    answer: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "onednn": torch.backends.mkldnn.is_available(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    print(json.dumps(answer), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = {"seconds": seconds(**json.loads(line))}
        except Exception as error:  # whatever it is, the other side is to hear of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        time.sleep(SETTLE_S)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    listen()
