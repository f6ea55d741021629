"""Write a parity golden: what PyTorch computes, in float64, for a network of timm or torchvision.

    python -m tests.models.parity.make_golden timm resnet50 2 64 72
    python -m tests.models.parity.make_golden timm resnet50 2 64 72 output_stride=8
    python -m tests.models.parity.make_golden timm vgg11_bn 2 40 72 \\
        mlp_ratio=0.01 "is hidden=(40,4096)"

from the root of the repository: source, name, examples, height, width, and then any further
keyword arguments of ``timm.create_model`` (of the network's function, for torchvision); behind
``is``, those of ``models.create`` where they are not the same. The golden lands beside this file,
as ``resnet50.json`` or ``resnet50-output_stride8.json``.

It needs Python 3.11 with PyTorch's CPU build, and beside it timm and torchvision without what they
depend on, since torchvision would bring a PyTorch of its own:

    pip install "torch==2.13.0+cpu"         (PyTorch's CPU build)
    pip install numpy pyyaml safetensors huggingface_hub
    pip install --no-deps timm==1.0.31 torchvision==0.29.2

Weights are not stored: ``weights.py`` makes the same from keys and shapes. What a golden holds:

    network          source/name
    options          keyword arguments of ``models.create``; absent where there are none
    made_with        the versions of torch, timm and torchvision
    parameters       how many numbers are trained
    input            [N, H, W]; the batch is ``weights.batch(N, H, W)``, NHWC, fed to torch as NCHW
    labels           the class of each example; the loss is the mean cross-entropy
    shapes           {state-dict key: shape} in torch's layouts (OIHW, (out, in))
    eval, train      batch norm on its running statistics; on the batch's own; each with
        logits_rms       root mean square of the logits
        logits           the first ten logits of each example
        loss             the loss
        grad_norms       {parameter: L2 norm of d loss / d parameter}
        input_grad_norm  L2 norm of d loss / d batch

Dropout and stochastic depth are off in both. Auxiliary classifiers have weights but no gradient:
they are not run. Floats have twelve significant digits.

In ``train`` some gradients are zero by symmetry, and a golden then holds the round-off that PyTorch
made of it, at most 1e-13: a shift that reaches nothing but 1 x 1 convolutions followed by batch
norm is taken away again by that norm (``bn3.bias`` of MobileNetV2's and EfficientNet's linear
bottlenecks, ``block8.conv2d.bias`` of Inception-ResNet). Compare those absolutely.

In float32 PyTorch itself misses these goldens in ``train`` wherever ReLU and many layers meet: the
worst gradient norm is off by 1e-2 (Inception v4: 3e-2), the logits by 3e-4 (3e-3). Batch norm over
the few positions of a small image magnifies round-off, and where it carries one activation across
the kink, every gradient before it jumps: one in 637,056 makes 2e-2 in ``eval`` of MobileNetV2 at
half its width. With smooth activations all are within 4e-5.
"""

import ast
import importlib.metadata
import math
import re
import sys

import torch

from tests.models.parity.compact import HERE, write
from tests.models.parity.weights import batch, make_weights


def stub_torchvision_ops():
    """Let torchvision import beside a torch that its compiled operators were not built for."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        return _stubs()


def _stubs():
    library = torch.library.Library("torchvision", "DEF")
    for op in ("nms", "qnms"):
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # the operators live as long as it does


def build(source, name, options):
    if source == "timm":
        import timm

        return timm.create_model(name, **options)
    import torchvision

    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": True, "init_weights": False, **options}
    if name.startswith("fcn_"):
        return getattr(torchvision.models.segmentation, name)(weights_backbone=None, **options)
    return getattr(torchvision.models, name)(**options)


def shapes_of(model):
    state = model.state_dict()
    return {k: list(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}


def fill(model, shapes):
    """Put the weights made from names in place of the model's own."""
    made = {key: torch.from_numpy(value) for key, value in make_weights(shapes).items()}
    missing, unexpected = model.load_state_dict(made, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)


def run(model, x, labels, train):
    """Logits, loss and every gradient norm, with batch norm alone in training mode or nothing."""
    model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train(train)
    x = x.clone().requires_grad_()
    model.zero_grad()
    logits = model(x)
    if isinstance(logits, dict):  # scores of every place
        logits = logits["out"][:, :, ::7, ::5].mean((2, 3))
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    return {
        "logits_rms": logits.square().mean().sqrt().item(),
        "logits": logits[:, :10].tolist(),
        "loss": loss.item(),
        "input_grad_norm": x.grad.norm().item(),
        "grad_norms": {k: g.norm().item() for k, g in gradients.items()},
    }


def golden(source, name, n, h, w, options, ours):
    model = build(source, name, options).double()
    shapes = shapes_of(model)
    fill(model, shapes)
    x = torch.from_numpy(batch(n, h, w)).permute(0, 3, 1, 2).contiguous()
    labels = torch.arange(n) * 7 % 1000
    packages = ("torch", "timm", "torchvision")
    return {
        "network": f"{source}/{name}",
        **({"options": ours or options} if ours or options else {}),
        "made_with": {package: importlib.metadata.version(package) for package in packages},
        "parameters": sum(p.numel() for p in model.parameters()),
        "input": [n, h, w],
        "labels": labels.tolist(),
        "shapes": shapes,
        # Evaluation first: on the batch's statistics, batch norm also moves its running ones.
        "eval": run(model, x, labels, False),
        "train": run(model, x, labels, True),
    }


def literal(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parsed(options):
    return {key: literal(value) for key, value in (o.split("=", 1) for o in options)}


def main(source, name, n, h, w, *given):
    library = stub_torchvision_ops()
    theirs = parsed(o for o in given if not o.startswith("is "))
    ours = parsed(o.removeprefix("is ") for o in given if o.startswith("is "))
    tree = golden(source, name, int(n), int(h), int(w), theirs, ours)
    words = (re.sub(r"[(){}':, ]", "", f"{key}{value}") for key, value in theirs.items())
    file = HERE / ("-".join([name, *words]) + ".json")
    write(file, tree)
    norms = [norm for norm in tree["train"]["grad_norms"].values() if norm > 1e-9]
    print(file.name, tree["parameters"], f"train gradients {min(norms):.1e} .. {max(norms):.1e}")
    assert math.isfinite(tree["eval"]["loss"]) and math.isfinite(tree["train"]["loss"])
    del library


if __name__ == "__main__":
    main(*sys.argv[1:])
