"""What timm and torchvision call the weights of ``models.vgg``."""

from collections.abc import Sequence

from convjax.models._network import Keys


def timm(units: Sequence[int], normed: bool) -> Keys:
    """Return timm's names, whose hidden layers are convolutions."""
    ends = (
        ("head/hidden1", "pre_logits.fc1"),
        ("head/hidden2", "pre_logits.fc2"),
        ("head/dense", "head.fc"),
    )
    return Keys((*_features(units, normed), *ends))


def torchvision(units: Sequence[int], normed: bool) -> Keys:
    """Return torchvision's names, whose hidden layers are matrices."""
    ends = (
        ("head/hidden1", "classifier.0@linear"),
        ("head/hidden2", "classifier.3@linear"),
        ("head/dense", "classifier.6"),
    )
    return Keys((*_features(units, normed), *ends))


def _features(units: Sequence[int], normed: bool) -> list[tuple[str, str]]:
    """Return the rules of the convolutions; every layer and pool before them is counted."""
    rules, place = [], 0
    for s, count in enumerate(units, 1):
        for i in range(count):
            rules.append((f"stage{s}/{i}/branch/conv", f"features.{place}"))
            rules.append((f"stage{s}/{i}/branch/norm", f"features.{place + 1}"))
            place += 3 if normed else 2
        place += 1
    return rules
