"""Write headless.json: timm's networks with num_classes=0, by ``weights.digest`` of their entries.

    python -m tests.models.parity.make_headless

from the root of the repository; it needs PyTorch, torchvision and timm, and takes every fourth of
the networks that references.json has: a headless one is made by the same code.
"""

import json

from tests.models.parity.compact import HERE, write
from tests.models.parity.make_golden import stub_torchvision_ops
from tests.models.parity.make_references import sizes


def main():
    library = stub_torchvision_ops()
    import timm
    import torch

    names = list(json.loads((HERE / "references.json").read_text())["timm"])[::4]
    with torch.device("meta"):
        found = {name: sizes(timm.create_model(name, num_classes=0))["digest"] for name in names}
    write(HERE / "headless.json", found)
    del library


if __name__ == "__main__":
    main()
