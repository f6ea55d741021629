"""load_weights: a reference's arrays into a network, all of them or none."""

import collections
import fnmatch
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import nn
from convjax._check import flag, instance, wrong_type
from convjax.models._network import REFERENCES, Network, named
from convjax.models._weights._cast import cast
from convjax.models._weights._formats import Arrays, index_beside, read
from convjax.models._weights._keys import Key, from_reference, key_of, layout_of, renumbered
from convjax.models._weights._leaves import Leaf, leaves, values
from convjax.models._weights._torch_file import AVERAGES

SHOWN, RGB = 8, 3
# What some of Keras's files call a weight, a number behind it aside, and its name here.
_ALSO = {"kernel": "depthwise_kernel", "Variable": "gamma", "variable": "gamma"}


# What the prefix of a moving average of the weights is called.
_AVERAGE = r"(?:^|[._])(?:ema|averaged?|swa|teacher|shadow)(?:[._]|$)"


class Loaded(NamedTuple):
    """What ``load_weights`` did; what ``allow`` let pass is in the three tuples.

    Attributes:
      count: arrays that were set.
      missing: the network's arrays that the source has not; they kept their values.
      unexpected: the source's arrays that the network has not; its classifier is among them where
        the network was made without one.
      misshapen: arrays of another shape; they kept their values.
      renamed: how the source's names were changed so that they fit: ``""``, or such as ``"from
        'model_ema'"``, where the arrays lay in a checkpoint, ``"from 'student' in place of
        'teacher'"``, where the average does not fit, ``"without the prefix 'model.'"``,
        ``"passing over what stands behind 'ema.'"``, where weights and their average are there,
        ``"by torchvision's names"``, ``"with the head 'dense'"``, and ``"with biases taken into the
        means of the norms"``, where a convolution before a batch norm has a bias there and none
        here: subtracted from the running mean behind it, it has the same effect.
    """

    count: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    renamed: str = ""


def load_weights(
    net: nnx.Module,
    source: str | PathLike[str] | Mapping[str, Any],
    *,
    allow: str | Sequence[str] = (),
    adapt_input: bool = False,
    use_ema: bool = True,
) -> Loaded:
    """Set a network's parameters and batch statistics from a file of its reference.

    Strict: every array must be there, of the right shape, and no other. The network is changed only
    after all was checked; values are rounded to the dtypes that it has. NaN and infinity stay.

    Args:
      net: what ``models.create`` or a family's function returned.
      source: a ``.safetensors`` or ``.npz`` file; Keras's ``.h5`` or ``.keras``; PyTorch's
        ``.pth``, ``.pt``, ``.bin``, ``.ckpt`` or ``.tar``, which is read without PyTorch and of
        which nothing is executed (it and safetensors under other names too); a folder with such a
        file as the hub calls it; the ``.index.json`` of a sharded checkpoint; or a mapping from
        the reference's names to arrays in its layouts. Its classifier is passed over where the
        network was made with ``num_classes=0``.
      allow: globs of arrays that may be missing, unexpected or of another shape, by the reference's
        name or by the path here: ``"head/*"`` keeps a new head.
      adapt_input: whether a first kernel for RGB is turned into one for the network's
        ``in_features``, as timm does: summed over the colours for one, else repeated and scaled by
        3 / in_features, so that the response to a grey image stays.
      use_ema: which weights are taken from a PyTorch checkpoint that holds a moving average
        (``model_ema``, ``params_ema``, ``teacher``, …, or the prefix ``ema.`` of names) beside the
        others: the average, as timm does, or with False the others; these too where the average
        does not fit.

    Returns:
      What was set, and what ``allow`` let pass.

    Raises:
      FileNotFoundError: a file that is not there; and a ValueError.
      ImportError: the package that reads the file is not installed; and a ValueError.
      UserWarning: names of torchvision, and an epsilon in the norms that its network has not.
      ValueError: a file that cannot be read; names of another reference; arrays that are missing,
        unexpected or misshapen, listed in one message; values that the network's dtypes cannot
        hold: complex ones, or too large. The network is then as it was.

    Example:
      >>> from flax import nnx
      >>> from convjax import models
      >>> net, other = (models.create("mobilenetv2_035", rngs=nnx.Rngs(i)) for i in (0, 1))
      >>> models.load_weights(net, models.export_weights(other)).count
      262
    """
    return load(net, source, allow=allow, adapt_input=adapt_input, use_ema=use_ema)


def load(
    net: nnx.Module,
    source: str | PathLike[str] | Mapping[str, Any],
    *,
    allow: str | Sequence[str] = (),
    adapt_input: bool = False,
    use_ema: bool = True,
    fresh: bool = False,
) -> Loaded:
    """Do what ``load_weights`` says; in a fresh network, set the norms' constants too.

    Args:
      net: as there.
      source: as there.
      allow: as there.
      adapt_input: as there.
      use_ema: as there.
      fresh: whether the network was made for these weights, so that its batch norms take the
        epsilon and momentum of the file's network where those are known to differ.
    """
    net = named(net, "load_weights")
    globs = checked_globs(allow)
    adapt_input, use_ema = flag("adapt_input", adapt_input), flag("use_ema", use_ema)
    attempt = partial(_tried, net, leaves(net), globs, adapt_input, use_ema)
    tried = attempt(read(source, use_ema=use_ema))
    if tried.misfits and (average := {*tried.fit.taken} & {*AVERAGES}):
        tried = _other_than(average.pop(), tried, lambda: attempt(read(source, use_ema=False)))
    fit, where, match = tried.fit, tried.where, tried.match
    if tried.misfits:
        raise ValueError(_message(tried, net, source))
    _assign(net, _cast(net, match.pairs, where))
    _settle(net, fit.names, where, fresh)
    missing, unexpected, misshapen = (tuple(map(str, odd)) for odd in match.odd())
    return Loaded(len(match.pairs), missing, unexpected, misshapen, fit.said())


class _Tried(NamedTuple):
    """A source held against a network that is still as it was.

    Attributes:
      fit: by which names.
      where: what to call the source in an error message.
      match: what fits, and what does not.
      refused: of the latter, what is not allowed.
    """

    fit: "_Fit"
    where: str
    match: "_Match"
    refused: "_Match"

    @property
    def misfits(self) -> bool:
        return any(self.refused.odd())


def _tried(
    net: Network,
    found: Sequence[Leaf],
    globs: Sequence[str],
    adapt_input: bool,
    use_ema: bool,
    source: Arrays,
) -> _Tried:
    kind, arrays, where, taken = source
    _check_kind(net, kind, where)
    fit, arrays = _fitted(net, found, arrays, use_ema, where)
    own = _Own(net, fit.names, [(leaf, key_of(net, leaf, fit.names)) for leaf in found])
    arrays = _cleaned(own, arrays)
    head, arrays = _with_head(own, arrays)
    fit = fit._replace(taken=taken, head=head, folded=_fold_biases(own, arrays))
    adapted = _adapted(own, arrays)
    match = _match(own, arrays | adapted if adapt_input else arrays)
    refused = match.without((*globs, *_left_out(own)))
    return _Tried(fit, where, match, refused)


def _other_than(average: str, tried: _Tried, beside: Callable[[], _Tried]) -> _Tried:
    """Return what stands beside an average that does not fit, where more of that does."""
    try:
        other = beside()
    except ValueError:  # there is no other, or none that can be told
        return tried
    if other.misfits and len(other.match.pairs) <= len(tried.match.pairs):
        return tried
    return other._replace(fit=other.fit._replace(instead=average))


class _Own(NamedTuple):
    """A network's arrays, and what they are called in the source.

    Attributes:
      net: the network.
      names: whose names these are.
      keyed: every array with its name there.
    """

    net: Network
    names: str
    keyed: list[tuple[Leaf, Key]]

    @property
    def keys(self) -> set[str]:
        return {key.name for _, key in self.keyed}

    @property
    def joint(self) -> str:
        return "." if self.net.reference == "torch" else "/"


def _left_out(own: _Own) -> tuple[str, ...]:
    """Return globs of what a file may hold of the head that a network was made without."""
    paths = {leaf.path for leaf, _ in own.keyed}
    keys = own.net.family.keys[own.names]
    if keys is None or "head/dense" in paths:
        return ()
    absent = [
        theirs for ours, theirs in keys.rules if ours.startswith("head/") and ours not in paths
    ]
    return tuple(f"{theirs.partition('@')[0]}{own.joint}*" for theirs in absent)


def _settle(net: Network, names: str, where: str, fresh: bool) -> None:
    """Give the norms the constants of the file's network, or warn where others are at work."""
    keys = net.family.keys[names]
    norms = [norm for _, norm in nnx.iter_modules(net) if isinstance(norm, nn.BatchNorm)]
    if keys is None or keys.epsilon is None or not norms:
        return
    if fresh:
        for norm in norms:
            norm.epsilon = keys.epsilon
            norm.momentum = norm.momentum if keys.momentum is None else keys.momentum
    elif odd := [norm.epsilon for norm in norms if norm.epsilon != keys.epsilon]:
        warnings.warn(
            f"{where}: the norms of {names}'s network have the epsilon {keys.epsilon:g}, and those "
            f"of this {net.name} {odd[0]:g}, so that its outputs differ; create it with "
            f"epsilon={keys.epsilon:g}, or give the file to models.create(…, weights=…), which "
            "takes the epsilon over",
            stacklevel=4,
        )


class _Fit(NamedTuple):
    """By which names a source fits a network best, and behind which prefix they stand there."""

    names: str
    prefix: str = ""
    passed: str | None = None
    taken: tuple[str, ...] = ()
    instead: str = ""
    head: str = ""
    folded: bool = False

    def said(self, before: str = "") -> str:
        instead = f" in place of {self.instead!r}" if self.instead else ""
        parts = [f"from {'/'.join(self.taken)!r}{instead}"] if self.taken else []
        parts += [f"without the prefix {self.prefix!r}"] if self.prefix else []
        if self.passed is not None:
            over = f"what stands behind {self.passed!r}" if self.passed else "what has no prefix"
            parts.append(f"passing over {over}")
        parts += [f"by {self.names}'s names"] if self.names not in REFERENCES else []
        parts += [f"with the head {self.head.partition(':')[0]!r}"] if self.head else []
        parts += ["with biases taken into the means of the norms"] if self.folded else []
        return before + " and ".join(parts) if parts else ""


def _fitted(
    net: Network,
    found: Sequence[Leaf],
    arrays: Mapping[str, np.ndarray],
    use_ema: bool,
    where: str,
) -> tuple[_Fit, Mapping[str, np.ndarray]]:
    """Choose names and prefix by what fits, and take the prefix off.

    A prefix is one only where it stands before most of the names that the network has. Where one of
    two is a moving average's, ``use_ema`` says which is taken; the other's arrays are passed over.
    """
    spellings = net.family.spellings(net.reference)
    if not spellings:
        return _Fit(net.reference), arrays
    if net.reference == "keras":
        if len(spellings) == 1:
            return _Fit("keras"), arrays
        given = renumbered(dict(arrays))
        fits = {n: sum(key_of(net, leaf, n).name in given for leaf in found) for n in spellings}
        return _Fit(max(spellings, key=lambda names: fits[names])), arrays
    best, most, rivals, known = _Fit("torch"), 0, {}, set()
    for names in spellings:
        own = {key_of(net, leaf, names).name for leaf in found}
        counts = collections.Counter(
            name[:start]
            for name in arrays
            for start in (0, *(dot.end() for dot in re.finditer(r"\.", name)))
            if name[start:] in own
        )
        for prefix, count in sorted(counts.items()):
            if count > most and (not prefix or 2 * count > len(own)):
                best, most = _Fit(names, prefix), count
                known, rivals = own, {p: c for p, c in counts.items() if 2 * c > len(own)}
    best = _average_or_not(best, rivals, use_ema, where)
    if best.passed is not None:
        gone = {f"{best.passed}{name}" for name in (*known, *_counters(known))}
        arrays = {name: array for name, array in arrays.items() if name not in gone}
    return best, {name.removeprefix(best.prefix): array for name, array in arrays.items()}


def _counters(names: Iterable[str]) -> Iterable[str]:
    """Return the names of batch norm's counters beside running means, which no network here has."""
    return (
        name.removesuffix("running_mean") + "num_batches_tracked"
        for name in names
        if name.endswith("running_mean")
    )


def _average_or_not(best: _Fit, rivals: Mapping[str, int], use_ema: bool, where: str) -> _Fit:
    """Take a moving average where it is asked for and as complete as what stands beside it.

    Args:
      best: the fit of the prefix that most names have.
      rivals: how many names each prefix has, of those that most names have.
      use_ema: whether an average is asked for.
      where: what to call the source in an error message.
    """
    averages = [prefix for prefix in rivals if re.search(_AVERAGE, prefix)]
    others = [prefix for prefix in rivals if prefix not in averages]
    if not averages:
        return best
    if not others and use_ema:
        return best
    if not others:
        raise ValueError(
            f"{where} holds a moving average alone, behind {best.prefix!r}, and use_ema=False asks "
            "for the other weights; use_ema=True reads it"
        )
    average, other = (max(prefixes, key=lambda p: rivals[p]) for prefixes in (averages, others))
    if use_ema and rivals[average] >= rivals[other]:
        return best._replace(prefix=average, passed=other)
    return best._replace(prefix=other, passed=average)


def _with_head(own: _Own, arrays: Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """Give the head the name that it has here, where it alone is called otherwise.

    Returns:
      Its name in the source, or ``""``; and the arrays.
    """
    keys = {key.name: leaf for leaf, key in own.keyed}
    missing = {name: leaf for name, leaf in keys.items() if name not in arrays}
    here = {name.rpartition(own.joint)[0] for name in missing}
    there = {name.rpartition(own.joint)[0] for name in arrays if name not in keys}
    if len(here) == len(there) == 1 and all(
        leaf.path.startswith("head/") for leaf in missing.values()
    ):
        old, new = there.pop(), here.pop()
        renamed = {f"{old}{name.removeprefix(new)}": name for name in missing}
        if {name for name in arrays if name not in keys} == {*renamed}:
            return old, {renamed.get(name, name): array for name, array in arrays.items()}
    return "", dict(arrays)


def _fold_biases(own: _Own, arrays: dict[str, np.ndarray]) -> bool:
    """Subtract biases that the network has not from the running means right behind them.

    Returns:
      Whether there were any; they are taken out.
    """
    means = {leaf.path: key.name for leaf, key in own.keyed if leaf.weight == "mean"}
    keys, found = own.keys, False
    for leaf, key in own.keyed:
        if leaf.weight != "kernel":
            continue
        bias = re.sub(r"\w+$", "bias", key.name)
        mean = means.get(re.sub(r"conv(\d*)$", r"norm\1", leaf.path))
        if bias in keys or mean is None or not {bias, mean} <= {*arrays}:
            continue
        if arrays[bias].shape == arrays[mean].shape:
            # In float64 both numbers are exact, and rounded once where the network is narrower.
            arrays[mean] = np.asarray(arrays[mean], np.float64) - arrays.pop(bias)
            found = True
    return found


def _adapted(own: _Own, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a first kernel for RGB as one for as many channels as the network takes."""
    net, found = own.net, dict[str, np.ndarray]()
    axis = 1 if net.reference == "torch" else 2
    shapes = _shapes(net)
    for leaf, key in own.keyed:
        if leaf.weight != "kernel" or not leaf.path.startswith(f"{net.names[0]}/"):
            continue
        shape = layout_of(leaf, key, net.reference, shapes[leaf.address][len(leaf.index) :])
        given = arrays.get(key.name)
        if given is None or given.ndim != 4 or given.shape[axis] != RGB or shape[axis] == RGB:
            continue
        wanted = shape[axis]
        single = np.asarray(given, np.promote_types(given.dtype, np.float32))
        if wanted == 1:
            found[key.name] = single.sum(axis, keepdims=True)
        else:
            order = np.arange(wanted) % RGB
            found[key.name] = single.take(order, axis) * (RGB / wanted)
    return found


def checked_globs(allow: Any) -> tuple[str, ...]:
    """Return one or several globs as a tuple."""
    if isinstance(allow, str):
        return (allow,)
    if not isinstance(allow, Sequence | Set):
        wrong_type("allow", allow, "a glob, or several")
    return tuple(instance(f"allow[{i}]", glob, str, "a glob") for i, glob in enumerate(allow))


class _Pair(NamedTuple):
    """An array here, its name there, and its value in our layout."""

    leaf: Leaf
    key: Key
    value: np.ndarray


class _Odd(NamedTuple):
    """One array that does not fit: its name there, its path here, and the shapes there and here."""

    key: str
    path: str
    given: tuple[int, ...] | None = None
    right: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.key + ("" if self.given is None else f" {self.given}, not {self.right}")

    def allowed(self, globs: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(n, g) for g in globs for n in (self.key, self.path) if n)


class _Match(NamedTuple):
    pairs: list[_Pair]
    missing: list[_Odd]
    unexpected: list[_Odd]
    misshapen: list[_Odd]

    def odd(self) -> tuple[list[_Odd], list[_Odd], list[_Odd]]:
        return self.missing, self.unexpected, self.misshapen

    def without(self, globs: Sequence[str]) -> "_Match":
        """Leave out what is allowed."""
        kept = ([odd for odd in odds if not odd.allowed(globs)] for odds in self.odd())
        return _Match(self.pairs, *kept)


def _match(own: _Own, arrays: Mapping[str, np.ndarray]) -> _Match:
    """Find every array of the network in the source."""
    match = _Match([], [], [], [])
    net, shapes = own.net, _shapes(own.net)
    for leaf, key in own.keyed:
        shape = shapes[leaf.address][len(leaf.index) :]
        if key.name not in arrays:
            match.missing.append(_Odd(key.name, leaf.name))
            continue
        given = arrays[key.name]
        value = from_reference(given, leaf, key, net.reference, shape)
        if value is None:
            right = layout_of(leaf, key, net.reference, shape)
            match.misshapen.append(_Odd(key.name, leaf.name, given.shape, right))
        else:
            match.pairs.append(_Pair(leaf, key, value))
    used = own.keys
    match.unexpected.extend(_Odd(name, "") for name in arrays if name not in used)
    return match


def _cast(net: Network, pairs: Iterable[_Pair], where: str) -> list[_Pair]:
    """Return the values in the dtypes that the network has; refuse those that would change."""
    dtypes = {address: variable.dtype for address, variable in _variables(net).items()}
    found, lost = [], []
    for pair in pairs:
        try:
            found.append(pair._replace(value=cast(pair.value, dtypes[pair.leaf.address])))
        except ValueError as error:
            lost.append(f"{pair.key.name!r} {error}")
    if lost:
        more = f"; and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        told = "; ".join(lost[:SHOWN])
        raise ValueError(f"{where} does not fit {net.name}: the network is unchanged; {told}{more}")
    return found


def _assign(net: Network, pairs: Iterable[_Pair]) -> None:
    """Write the values."""
    variables = _variables(net)
    whole: dict[Any, np.ndarray] = {}
    for leaf, _, value in pairs:
        now = variables[leaf.address]
        if leaf.index:
            if leaf.address not in whole:
                # A network of shapes alone has no values to keep.
                alone = isinstance(now, jax.ShapeDtypeStruct)
                own = np.full(now.shape, np.nan, now.dtype) if alone else np.array(now)
                whole[leaf.address] = own
            whole[leaf.address][leaf.index] = value
        else:
            whole[leaf.address] = value
    new = [(a, jnp.asarray(v, variables[a].dtype)) for a, v in whole.items()]
    nnx.update(net, nnx.from_flat_state(new))


def _variables(net: Network) -> dict[Any, Any]:
    state = nnx.merge_state(*nnx.state(net, nnx.Param, nnx.BatchStat))
    return values(state)


def _shapes(net: Network) -> dict[Any, tuple[int, ...]]:
    return {address: variable.shape for address, variable in _variables(net).items()}


def _cleaned(own: _Own, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leave out what no network here has: counters, and heads that this one was made without."""
    rules, keys = own.net.family.keys[own.names], own.keys
    optional = rules.optional if rules else ()
    if own.net.reference == "keras":
        arrays = _one_name_for_each(keys, renumbered(dict(arrays)))
    return {
        name: array
        for name, array in arrays.items()
        if not name.endswith("num_batches_tracked")
        and (name in keys or not any(fnmatch.fnmatchcase(name, glob) for glob in optional))
    }


def _one_name_for_each(keys: set[str], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give a weight the name that it has here, where Keras has several for it.

    A depthwise kernel is called ``kernel`` in Keras 3, and a layer scale has no name of its own.
    """
    names = keys - set(arrays)
    for other in [*arrays]:
        layer, _, weight = other.rpartition("/")
        known = _ALSO.get(re.sub(r"_\d+$", "", weight))
        if f"{layer}/{known}" in names:
            arrays[f"{layer}/{known}"] = arrays.pop(other)
    return arrays


def _check_kind(net: Network, kind: str | None, where: str) -> None:
    if kind is not None and kind != net.reference:
        known = net.family.keys[kind] is not None
        remedy = (
            f"create the network with reference={kind!r}" if known else "there is no map for these"
        )
        raise ValueError(
            f"{where} holds {kind}'s weights, and this {net.name} follows {net.reference}, whose "
            f"padding and names differ: {remedy}"
        )


def _message(tried: _Tried, net: Network, source: Any) -> str:
    """Say all that does not fit, and what it probably means."""
    where = tried.where + tried.fit.said(", read ")
    parts = [f"{where} does not fit {net.name}: the network is unchanged"]
    odds_of = zip(("missing", "unexpected", "misshapen"), tried.refused.odd(), strict=True)
    for what, odds in odds_of:
        if odds:
            shown = ", ".join(map(str, odds[:SHOWN]))
            more = f", and {len(odds) - SHOWN} more" if len(odds) > SHOWN else ""
            parts.append(f"{len(odds)} {what}: {shown}{more}")
    index = index_beside(source)
    whole = f". It is a part of a checkpoint: {index!r} reads all of them"
    return "; ".join(parts) + (whole if index else _hint(net, tried.match, tried.refused))


def _hint(net: Network, match: _Match, refused: _Match) -> str:
    if not match.pairs and (other := _other_reference(net, refused)):
        return f". The names are {other}'s: create it with reference={other!r}"
    if not match.pairs:
        return ". Nothing fits: it is another network's file, or another reference's"
    if net.family.name == "repvgg" and any(".reparam_conv." in o.key for o in refused.unexpected):
        return ". Its branches are merged already: load it into models.merged(net)"
    torch = net.reference == "torch"
    first = [o for o in refused.misshapen if o.path.startswith(f"{net.names[0]}/")]
    first = [o for o in first if _size_there([o], 1 if torch else -2)]
    channels = _size_there(first, 1 if torch else -2)
    rest = [o for o in (*refused.missing, *refused.misshapen) if o not in first]
    more = refused.misshapen or refused.unexpected
    if not more and all(o.path.endswith(("/mean", "/var")) for o in rest):
        allow = "allow=['*/mean', '*/var'] keeps the network's own"
        return f". Only running statistics are missing, which no parameters are: {allow}"
    heads = {
        f"{top}/*" for top in ("head", "auxiliary") for o in rest if o.path.startswith(f"{top}/")
    }
    foreign = _modules(net, refused.unexpected)
    if all(o.path.startswith(("head/", "auxiliary/")) for o in rest) and len(foreign) <= 4:
        globs = [*sorted(heads, reverse=True), *(f"{_literally(name)}*" for name in foreign)]
        allow = f"allow={(globs[0] if len(globs) == 1 else globs)!r}" if globs else ""
        classes = 0 if foreign else _size_there(rest, 0 if torch else -1)
        return _advice(channels, classes, bool(heads), allow)
    if len(refused.misshapen) > len(match.pairs) // 4:
        return ". It is probably the same network at another width"
    return ""


def _size_there(odds: Sequence[_Odd], axis: int) -> int:
    """Return the one size that the source's arrays have on an axis; 0 where others differ too."""
    sizes = set()
    for odd in odds:
        there, here = list(odd.given or ()), list(odd.right)
        if not -len(here) <= axis < len(here) == len(there):
            return 0
        sizes.add(there.pop(axis))
        del here[axis]
        if here != there:
            return 0
    return sizes.pop() if len(sizes) == 1 else 0


def _advice(channels: int, classes: int, heads: bool, allow: str) -> str:
    """Say what lets all that does not fit pass."""
    if not heads and not channels:
        return f". The network is complete without what is unexpected: {allow} passes it over"
    created = f"models.create(…, in_features={channels})"
    if not heads and not allow:
        turned = "adapt_input=True turns one for RGB into this one"
        remedy = turned if channels == RGB else f"{created} has the file's"
        return f". Only the first kernel differs: {remedy}"
    if not channels:
        own = f"; models.create(…, num_classes={classes}) takes the file's" if classes else ""
        return f". Only the head differs: {allow} keeps the network's own{own}"
    remedy = "adapt_input=True" if channels == RGB else created
    return f". Of the network, only the ends differ: {remedy} and {allow} let them pass"


def _modules(net: Network, odd: Sequence[_Odd]) -> list[str]:
    """Return the modules of arrays, each with the sign behind it, in their order."""
    joint = "." if net.reference == "torch" else "/"
    return list(dict.fromkeys("".join(o.key.rpartition(joint)[:2]) or o.key for o in odd))


def _literally(name: str) -> str:
    """Write a name as a glob that stands for itself."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _other_reference(net: Network, refused: _Match) -> str | None:
    """Name the reference that the source's names are of, if it is not the network's."""
    keys = [odd.key for odd in refused.unexpected]
    kind = "keras" if all("/" in key for key in keys) else "torch"
    return kind if keys and kind != net.reference and net.family.keys[kind] else None
