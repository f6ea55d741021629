"""PyTorch's side of the benchmarks: prepares a computation, and times it when asked.

A script for any Python that has torch and NumPy; it knows neither JAX nor this package. Requests
and answers are lines of JSON on standard input and output; it ends with its input.

    {"do": "versions"}                       -> {"torch": "2.13.0", "threads": 2, ...}
    {"do": "prepare", "spec": {"what": ...}} -> {"ok": true}
    {"do": "time", "layout": "contiguous", "backward": true, "count": 3} -> {"seconds": 0.012}
    {"do": "release"}                        -> {"ok": true}

A request that fails is answered by {"error": "..."}. The seconds are those of all runs together.
"""

import functools
import gc
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

# After this time, threads that wait for work have stopped spinning and disturb nobody.
SETTLE_S = 0.004
Function = Callable[..., Any]
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
ACTIVATIONS: dict[str, Function] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": functools.partial(F.gelu, approximate="tanh"),  # as jax.nn.gelu has it
    "silu": F.silu,
}


class Draw:
    """Draws normal numbers, images and kernels in one layout."""

    def __init__(self, layout: str, dtype: str, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.memory_format = LAYOUTS[layout]
        self.dtype = getattr(torch, dtype)

    def __call__(self, *shape: int) -> Any:
        """Return a tensor whose gradient can be asked for."""
        tensor = torch.randn(shape, generator=self.generator).to(self.dtype)
        if tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=self.memory_format)
        return tensor.requires_grad_()

    def image(self, spec: dict[str, Any]) -> Any:
        """Return the input: the spec's batch, channels, height and width."""
        return self(spec["batch"], spec["in_features"], spec["height"], spec["width"])


def conv(spec: dict[str, Any], draw: Draw) -> tuple[Function, Sequence[Any]]:
    """Convolution; the gradient is taken with respect to input and kernel."""
    groups = spec["feature_group_count"]
    kernel = draw(spec["out_features"], spec["in_features"] // groups, *spec["kernel_size"])
    slide = (spec["strides"], spec["padding"], spec["kernel_dilation"], groups)
    return lambda x, w: F.conv2d(x, w, None, *slide), (draw.image(spec), kernel)


def batch_norm(spec: dict[str, Any], draw: Draw) -> tuple[Function, Sequence[Any]]:
    """Batch norm on the batch's own statistics; input, scale and bias."""
    channels = spec["in_features"]

    def run(x: Any, scale: Any, bias: Any) -> Any:
        return F.batch_norm(x, None, None, scale, bias, training=True, eps=1e-5)

    return run, (draw.image(spec), draw(channels), draw(channels))


def max_pool(spec: dict[str, Any], draw: Draw) -> tuple[Function, Sequence[Any]]:
    """Largest of every window."""
    window = (spec["kernel_size"], spec["strides"], spec["padding"])
    return lambda x: F.max_pool2d(x, *window), (draw.image(spec),)


def avg_pool(spec: dict[str, Any], draw: Draw) -> tuple[Function, Sequence[Any]]:
    """Average of every window, padding counted."""
    window = (spec["kernel_size"], spec["strides"], spec["padding"])
    return lambda x: F.avg_pool2d(x, *window, count_include_pad=True), (draw.image(spec),)


def global_avg_pool(spec: dict[str, Any], draw: Draw) -> tuple[Function, Sequence[Any]]:
    """Average over the image."""
    return lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), (draw.image(spec),)


def activation(spec: dict[str, Any], draw: Draw) -> tuple[Function, Sequence[Any]]:
    """One function of every element."""
    return ACTIVATIONS[spec["name"]], (draw.image(spec),)


PREPARE = {f.__name__: f for f in (conv, batch_norm, max_pool, avg_pool, global_avg_pool)}
PREPARE["activation"] = activation


def runs(spec: dict[str, Any], layout: str, backward: bool) -> Callable[[], Any]:
    """Return what is timed: forward without a graph, or forward and the gradient of sum(y g)."""
    if spec["what"] == "network":
        # One whole training step, in a file of its own; it has no half.
        return _networks().build(spec["name"], spec["batch"], spec["size"], layout, spec["seed"])
    draw = Draw(layout, spec["dtype"], spec["seed"])
    function, inputs = PREPARE[spec["what"]](spec, draw)

    def forward() -> Any:
        with torch.no_grad():
            return function(*inputs)

    if not backward:
        return forward
    y = forward()
    # Of y's own strides, so that the backward pass begins without a conversion.
    cotangent = torch.empty_like(y).normal_(generator=draw.generator)

    def both() -> Any:
        y = function(*inputs)
        return y, *torch.autograd.grad(y, inputs, cotangent)

    return both


def _networks() -> Any:
    path = Path(__file__).with_name("torch_networks.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Peer:
    """Answers requests; what is prepared stays until it is released or replaced."""

    def __init__(self):
        self.spec: dict[str, Any] | None = None
        self.prepared: dict[tuple[str, bool], Callable[[], Any]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        tasks = {name: getattr(self, name) for name in ("versions", "prepare", "time", "release")}
        do = request.pop("do", None)
        if do not in tasks:
            raise ValueError(f"{do!r} is no request; ask for one of {', '.join(tasks)}")
        return tasks[do](**request)

    def versions(self) -> dict[str, Any]:
        """Name PyTorch, its Python and its threads."""
        return {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "onednn": torch.backends.mkldnn.is_available(),
        }

    def prepare(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Keep a specification; tensors are made when a layout is first timed."""
        if spec["what"] not in (*PREPARE, "network"):
            raise ValueError(f"{spec['what']!r} is not among {', '.join(PREPARE)}, network")
        self.release()
        self.spec = spec
        return {"ok": True}

    def time(self, layout: str, backward: bool, count: int) -> dict[str, Any]:
        """Run ``count`` times."""
        if self.spec is None:
            raise ValueError("nothing is prepared")
        key = (layout, backward)
        if key not in self.prepared:
            self.prepared[key] = runs(self.spec, layout, backward)
        run = self.prepared[key]
        start = time.perf_counter()
        for _ in range(count):
            run()
        seconds = time.perf_counter() - start
        time.sleep(SETTLE_S)
        return {"seconds": seconds}

    def release(self) -> dict[str, Any]:
        """Drop what is prepared."""
        self.spec = None
        self.prepared.clear()
        gc.collect()
        return {"ok": True}


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer line by line, until there are no more."""
    peer = Peer()
    for line in requests:
        try:
            answer = peer.answer(json.loads(line))
        except Exception as error:  # whatever it is, the other side is to hear of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def listen() -> None:
    """Serve on standard input and output, on all processors that the process may use."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers
    torch.set_num_threads(available())
    serve(sys.stdin, answers)


def available() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    listen()
