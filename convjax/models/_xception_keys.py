"""What timm, and Keras, call the weights of ``models.xception``."""

from collections.abc import Iterator

from convjax.models._network import Keys

Rules = Iterator[tuple[str, str]]


def torch_keys(middle: int) -> Keys:
    """Return timm's names for this count of units in the middle flow."""
    return Keys(tuple(_torch(middle)))


def keras_keys(middle: int) -> Keys:
    """Return Keras's names for this count of units in the middle flow."""
    return Keys(tuple(_keras(middle)))


def _blocks(middle: int) -> Iterator[tuple[str, int, int]]:
    """Yield every residual unit's path and number, and which of its parts opens its first step."""
    yield "stage1/0", 1, 0  # without an activation
    yield "stage2/0", 2, 1
    for i in range(1 + middle):
        yield f"stage3/{i}", 3 + i, 1
    yield "stage4/0", 4 + middle, 1


def _separable(ours: str, theirs: str) -> Rules:
    yield f"{ours}/depthwise", f"{theirs}.conv1"
    yield f"{ours}/pointwise", f"{theirs}.pointwise"


def _torch(middle: int) -> Rules:
    for path, number, opened in _blocks(middle):
        for k in (1, 2, 3):  # activation, convolution, norm, over and over
            place = 3 * (k - 1) + opened
            yield from _separable(f"{path}/branch/conv{k}", f"block{number}.rep.{place}")
            yield f"{path}/branch/norm{k}", f"block{number}.rep.{place + 1}"
        yield f"{path}/shortcut/conv", f"block{number}.skip"
        yield f"{path}/shortcut/norm", f"block{number}.skipbn"
    for k in (1, 2):
        yield f"stem/conv{k}", f"conv{k}"
        yield f"stem/norm{k}", f"bn{k}"
        yield from _separable(f"stage4/{k}/conv", f"conv{k + 2}")
        yield f"stage4/{k}/norm", f"bn{k + 2}"
    yield "head/dense", "fc"


def _keras(middle: int) -> Rules:
    for path, number, _ in _blocks(middle):
        for k in (1, 2, 3):
            name = f"block{number + 1}_sepconv{k}"
            yield from _separable_there(f"{path}/branch/conv{k}", name)
            yield f"{path}/branch/norm{k}", f"{name}_bn"
    for n, stage in enumerate(("stage1", "stage2", "stage3", "stage4")):
        yield f"{stage}/0/shortcut/conv", f"conv2d:{n}"
        yield f"{stage}/0/shortcut/norm", f"batch_normalization:{n}"
    for k in (1, 2):
        yield f"stem/conv{k}", f"block1_conv{k}"
        yield f"stem/norm{k}", f"block1_conv{k}_bn"
        name = f"block{middle + 6}_sepconv{k}"
        yield from _separable_there(f"stage4/{k}/conv", name)
        yield f"stage4/{k}/norm", f"{name}_bn"
    yield "head/dense", "predictions"


def _separable_there(ours: str, theirs: str) -> Rules:
    """Yield the rules of a layer that holds both kernels."""
    for part in ("depthwise", "pointwise"):
        yield f"{ours}/{part}/kernel", f"{theirs}/{part}_kernel"
