"""Network: what the zoo returns, a chain that knows which reference it follows."""

from collections.abc import Mapping
from typing import NamedTuple

from flax import nnx

from convjax import _check, nn

REFERENCES = ("torch", "keras")


class Keys(NamedTuple):
    """How one reference names the weights of one family.

    Attributes:
      rules: pairs of a path here and a module's name there; ``{i}`` stands for a number, and
        ``{i+1}`` on the other side for the number after it. The first rule that fits decides.
      optional: names there, as globs, that may be absent here: auxiliary heads, say.
    """

    rules: tuple[tuple[str, str], ...]
    optional: tuple[str, ...] = ()


class Family:
    """The networks of one paper: their name, and what each reference calls their weights.

    Families are equal by name, since a network's structure keys compilations.
    """

    def __init__(self, name: str, *, torch: Keys | None = None, keras: Keys | None = None):
        self.name = name
        self.keys = {"torch": torch, "keras": keras}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Family) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Family({self.name!r})"


class Network(nn.Chain):
    """A chain whose weights have names elsewhere: what ``models.create`` returns.

    To every interpreter it is a chain. Its last unit is called ``head``, and the last unit of that
    ``dense``: the classifier.

    Args:
      units: a mapping from names to nodes.
      family: the networks that it is one of.
      reference: whose details it follows, ``"torch"`` (timm and torchvision) or ``"keras"``.
      name: what ``models.create`` knows it by, if it does.
      auxiliary: heads beside the trunk by name, each with the path of the unit that it reads. Their
        parameters are the network's, under ``auxiliary/``; calling the network, and all that
        interprets it, leaves them out, and ``models.auxiliary_logits`` runs them.

    Raises:
      ValueError: a path at which there is no unit; what ``Chain`` refuses.

    Example:
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.create("mobilenetv2_035", num_classes=10, rngs=nnx.Rngs(0))
      >>> net.name, net.reference, net.names[-1]
      ('mobilenetv2_035', 'torch', 'head')
    """

    def __init__(
        self,
        units: Mapping[str, nnx.Module],
        *,
        family: Family,
        reference: str = "torch",
        name: str = "",
        auxiliary: Mapping[str, tuple[str, nnx.Module]] | None = None,
    ):
        _check.instance("units", units, Mapping, "a mapping from names to nodes")
        super().__init__(units)
        self.family = _check.instance("family", family, Family, "a family of networks")
        self.reference = _check.choice("reference", reference, REFERENCES)
        self.name = _check.instance("name", name, str, "a name") or family.name
        heads = {} if auxiliary is None else auxiliary
        _check.instance("auxiliary", heads, Mapping, "a mapping from names to (path, head)")
        for path, head in heads.values():
            nn.at(self, path)
            _check.instance("auxiliary", head, nnx.Module, "a mapping from names to (path, head)")
        self.auxiliary = nnx.Dict({name: head for name, (_, head) in heads.items()})
        self.auxiliary_paths = tuple((name, path) for name, (path, _) in heads.items())


def check_reference(reference: str, family: Family) -> None:
    """Refuse a reference that does not have this family."""
    known = [name for name in REFERENCES if family.keys[name] is not None]
    _check.choice("reference", reference, known)


def named(net: nnx.Module, function: str) -> Network:
    """Return a network whose weights have names; refuse any other for a public function."""
    if isinstance(net, Network):
        return net
    if not isinstance(net, nnx.Module):
        _check.wrong_type("net", net, "a network that models.create returned")
    raise ValueError(
        f"net={type(net).__name__} has no names in timm or Keras; {function} takes what "
        "models.create returns"
    )
