"""Network: what the zoo returns, a chain that knows which reference it follows."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import nnx

from convjax import _check, nn

REFERENCES = ("torch", "keras")


# A number in a key rule, and what is added to it.
FIELD = re.compile(r"\{(\w+)([+-]\d+)?\}")
FORMS = ("1x1", "linear", "grouped", "spatial")


class Keys(NamedTuple):
    """Key rules: how one reference names the weights of one family.

    Attributes:
      rules: pairs of a path here and a module's name there. ``{i}`` stands for a number, and
        ``{i+1}`` in the name there for the number after it. A path may also name one array, such as
        ``head/dense/kernel``. Behind the name there, ``@1x1`` says that a dense kernel is stored as
        a 1x1 convolution's, ``@linear`` that a convolution's is stored as a matrix, ``@grouped``
        that Keras stores a depthwise kernel as a grouped convolution's, ``@spatial`` that one
        number for each feature has two dimensions of 1 behind it. The first rule that fits decides.
      optional: names there, as globs, that may be absent here: auxiliary heads, say.
      epsilon: of the batch norms there, where it is another than the family's own; None where it is
        that.
      momentum: of their running statistics there, likewise.
      keras: whether a further spelling is that of files of Keras, not of PyTorch's.
    """

    rules: tuple[tuple[str, str], ...]
    optional: tuple[str, ...] = ()
    epsilon: float | None = None
    momentum: float | None = None
    keras: bool = False


class Family:
    """The networks of one paper: their name, and what each reference calls their weights.

    With key rules for a reference, ``models.load_weights`` fills a network from a file with that
    reference's names, ``models.export_weights`` writes it by them. Layouts and the names of single
    arrays (``weight``, ``running_mean``, …) follow from the reference and the layers. Families are
    equal by name, since a network's structure keys compilations.

    Args:
      name: of the family.
      torch: key rules of PyTorch's state dict: ``models.Keys``, or a mapping from paths to names.
      keras: key rules of Keras's file, likewise.
      torchvision: key rules of torchvision's file, where it calls the same arrays otherwise than
        ``torch`` says; ``models.load_weights`` takes the rules by which more arrays fit.
      others: key rules of further packages of PyTorch, likewise, by the package's name.

    Raises:
      ValueError: no name; a rule whose name needs a number that its path has not.

    Example:
      >>> from flax import nnx
      >>> from convjax import models, nn
      >>> rules = {"stage{s}/{i}/conv": "features.{s-1}.{i}", "head/dense": "classifier"}
      >>> family = models.Family("small", torch=rules)
      >>> rngs = nnx.Rngs(0)
      >>> stage = nn.Chain([nn.Chain(conv=nn.Conv(3, 4, 3, use_bias=False, rngs=rngs))])
      >>> head = nn.Chain(pool=nn.GlobalPool("avg"), dense=nn.Dense(4, 2, rngs=rngs))
      >>> net = models.Network({"stage1": stage, "head": head}, family=family)
      >>> sorted(models.export_weights(net))
      ['classifier.bias', 'classifier.weight', 'features.0.0.weight']
    """

    def __init__(
        self,
        name: str,
        *,
        torch: Keys | Mapping[str, str] | None = None,
        keras: Keys | Mapping[str, str] | None = None,
        torchvision: Keys | Mapping[str, str] | None = None,
        others: Mapping[str, Keys | Mapping[str, str]] | None = None,
    ):
        self.name = _check.instance("name", name, str, "the family's name")
        if not name:
            raise ValueError("name='' is empty; give the family a name")
        self.keys = {"torch": _keys("torch", torch), "keras": _keys("keras", keras)}
        self.keys["torchvision"] = _keys("torchvision", torchvision)
        right = "a mapping from packages' names to key rules"
        more = {} if others is None else _check.instance("others", others, Mapping, right)
        self.keys |= {other: _keys(f"others[{other!r}]", keys) for other, keys in more.items()}

    def spellings(self, reference: str) -> tuple[str, ...]:
        """Return whose names there are for files of PyTorch (``"torch"``), or of Keras."""
        keras = reference == "keras"
        kinds = {n: n == "keras" or keys.keras for n, keys in self.keys.items() if keys}
        return tuple(name for name, kind in kinds.items() if kind == keras)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Family) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Family({self.name!r})"


def _keys(argument: str, keys: Any) -> Keys | None:
    """Return key rules; refuse those by which no array could be named."""
    if keys is None:
        return None
    if isinstance(keys, Mapping):
        keys = Keys(tuple(keys.items()))
    right = "models.Keys, or a mapping from paths to names, or None"
    for rule in _check.instance(argument, keys, Keys, right).rules:
        for text in rule:
            _check.instance(f"{argument}: rule", text, str, "a path or a name")
        _check_rule(argument, *rule)
    return keys


def _check_rule(argument: str, ours: str, theirs: str) -> None:
    numbers = FIELD.findall(ours)
    names = [name for name, _ in numbers]
    if any(offset for _, offset in numbers) or len({*names}) < len(names):
        raise ValueError(
            f"{argument}: rule {ours!r}: a path has every number once and as it is, {{i}}; "
            "the name on the other side may be {i+1}"
        )
    if unknown := {name for name, _ in FIELD.findall(theirs)} - {*names}:
        raise ValueError(
            f"{argument}: rule {ours!r}: {theirs!r} has the number {min(unknown)!r}, which the "
            "path has not"
        )
    if form := theirs.partition("@")[2]:
        _check.choice(f"{argument}: rule {ours!r}: form", form, FORMS)


class Network(nn.Chain):
    """A chain whose weights have names elsewhere: what ``models.create`` returns.

    To every interpreter it is a chain. Its last unit is called ``head``, and the last unit of that
    ``dense``: the classifier, unless it was made with ``num_classes=0``.

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
    """Refuse a reference that does not have this family; one without key rules is of any."""
    known = [name for name in REFERENCES if family.keys[name] is not None]
    _check.choice("reference", reference, known or REFERENCES)


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
