"""What to expect of the combinators: chains, branches side by side, sums, repeats."""

import itertools
import math

import numpy as np

from convjax import nn
from convjax.gradflow._theory._duals import moments
from convjax.gradflow._theory._run import Back, Row, Scope, Source, expected, output_of, visit
from convjax.gradflow._theory._state import Cotangent, Doubt, Gates, Signal, Way, refined, scaled_by
from convjax.gradflow._theory._values import ByValue, Normal, Values, total_of

Terms = tuple[Values | Normal, ...]


@expected.register
def _(node: nn.Chain, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    backs: list[Back] = []
    inner = scope
    for name, unit in node.items():
        signal, back = visit(unit, signal, inner.inside(name))
        backs.append(back)
        here = output_of(unit, nn.join(scope.path, name))
        inner = inner._replace(source=Source(here, (here, "gradient")))
    return signal, in_turn(backs)


@expected.register
def _(node: nn.Repeat, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    backs: list[Back] = []
    inner = scope
    for i in range(node.n):
        step = inner.inside(str(i), units=(*scope.units, i))
        signal, back = visit(node.unit, signal, step)
        backs.append(back)
        here = output_of(node.unit, step.path)
        inner = inner._replace(source=Source(here, (here, "gradient")))
    return signal, in_turn(backs)


def in_turn(backs: list[Back]) -> Back:
    """Return the way back through what was applied one after the other."""

    def back(cotangent: Cotangent) -> Cotangent:
        for one in reversed(backs):
            cotangent = one(cotangent)
        return cotangent

    return back


@expected.register
def _(node: nn.Parallel, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    shared = scope._replace(source=scope.source._replace(gradient=None))
    parts = [visit(unit, signal, shared.inside(name)) for name, unit in node.items()]
    outs = [out for out, _ in parts]
    log = max(out.log for out in outs)
    energy = np.concatenate([out.energy * math.exp(2 * (out.log - log)) for out in outs])
    features = tuple(f for out in outs for f in out.features)
    whole = signal._replace(features=features, log=log, energy=energy)
    share = forward = np.array([whole.share[whole_of].sum() for whole_of in _slices(outs)])
    own = _weighted(share, [out.own for out in outs])
    overlap, common = (np.array([getattr(out, of) for out in outs]) for of in ("overlap", "common"))
    carry = float(share @ [out.carry for out in outs])
    after = whole._replace(
        pair=np.concatenate([out.pair for out in outs]),
        within=np.concatenate([out.without_means for out in outs]),
        mean=np.concatenate([out.mean for out in outs]),
        # What each part's channels scatter by themselves is less in all of them.
        overlap=float(share**2 @ (overlap - common) + share @ common),
        latent=float(share @ [out.latent for out in outs]),
        common=float(share @ common),
        kernels=float(share @ [out.kernels for out in outs]),
        reach=float(share @ [out.reach for out in outs]),
        unlike=_unlike(share, outs),
        laws=tuple(law for out in outs for law in out.laws or (None,) * len(out.features)),
        own=own,
        total=signal.total.then(carry, own),
        carry=carry,
        drawn=0,
        cubes=float(share @ [out.cubes for out in outs]),
        spectrum=None,
        data=None,
        sizes=None,
        values=(),
        echo=None,
    )

    def back(cotangent: Cotangent) -> Cotangent:
        cotangent = cotangent.regrouped(features)._replace(echo=None)
        handed: list[Cotangent] = []
        for rows, f, (out, one) in zip(_slices(outs), forward, parts, strict=True):
            part = cotangent.of_kernels(f * out.kernels, after.kernels)._replace(
                features=out.features,
                energy=cotangent.energy[rows],
                pair=cotangent.pair[rows],
                tilt=None if cotangent.tilt is None else cotangent.tilt[rows],
                picked=None if cotangent.picked is None else cotangent.picked[rows],
                by_value=cotangent.by_value[rows],
                # Fewer channels' correlations scatter more.
                overlap=cotangent.overlap + 1 / sum(out.features) - 1 / sum(features),
            )
            handed.append(one(part))
        total = handed[0]
        for more in handed[1:]:
            total = total.plus(more)
        logs = np.array([c.log_energy(signal.batch) for c in handed])
        share = np.exp(logs - np.logaddexp.reduce(logs))
        return total._replace(own=_returned(share, forward, [c.own for c in handed]))

    return after, back


def _unlike(share: np.ndarray, outs: list[Signal]) -> float:
    """Return how unlike the channels' energies are, of parts side by side."""
    count = np.array([sum(out.features) for out in outs])
    return float(share**2 * count.sum() / count @ [out.unlike for out in outs])


def _slices(outs: list[Signal]) -> list[slice]:
    ends = np.cumsum([0, *(len(out.features) for out in outs)]).tolist()
    return [slice(*both) for both in itertools.pairwise(ends)]


def _weighted(share: np.ndarray, doubts: list[Doubt]) -> Doubt:
    """Return the doubt about a sum of parts that scatter independently."""
    known = [(s, d) for s, d in zip(share.tolist(), doubts, strict=True) if s > 0]
    variance, again = (sum(s**2 * getattr(d, of) for s, d in known) for of in ("variance", "again"))
    return Doubt(variance, sum(s * d.slack for s, d in known), again=again)


def _returned(share: np.ndarray, forward: np.ndarray, ways: list[Way]) -> Way:
    """Return the way back of a sum of parts: of the gradient's energy, and of the signal's."""
    known = [(s, f, w) for s, f, w in zip(share.tolist(), forward.tolist(), ways, strict=True) if s]
    return Way(
        sum(s**2 * w.variance for s, _, w in known),
        sum(s * w.slack for s, _, w in known),
        sum(s * f * w.both for s, f, w in known),
        bends=sum(s * w.bends for s, _, w in known),
        again=sum(s**2 * w.again for s, _, w in known),
        beyond=sum(s * w.beyond for s, _, w in known),
    )


@expected.register
def _(node: nn.Residual, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    if node.shortcut is None:
        total, back = visit(node.branch, signal, scope.inside("branch"))
        total, back = _scaled(total, back, node.scale)
    else:
        total, back = _sum(node, signal, scope)
    if node.activation is None:
        return total, back
    unmeasured = scope.inside("activation", source=Source(None, None))
    after, back_activation = visit(node.activation, total, unmeasured)

    def returning(cotangent: Cotangent) -> Cotangent:
        handed = back_activation(cotangent)
        through = back(handed._replace(own=Way()))
        forward = total.own.without(handed.centred)
        way = through.own._replace(forward=forward, follows=total.carry)
        return through._replace(own=handed.own.then(way))

    return after, returning


def _scaled(signal: Signal, back: Back, scale: float) -> tuple[Signal, Back]:
    if scale == 1.0:
        return signal, back

    def scaled(cotangent: Cotangent) -> Cotangent:
        return back(cotangent._replace(energy=cotangent.energy * scale**2, by_value=()))

    turned = signal._replace(
        energy=signal.energy * scale**2, mean=signal.mean * math.copysign(1, scale)
    )
    return turned, scaled


def _sum(node: nn.Residual, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    """Add branch and shortcut, which are independent where one of them has weights."""
    start = signal._replace(echo=signal.itself, gate=None, gates=Gates())
    branch, back_branch = visit(node.branch, start, _inside(scope, "branch"))
    branch, back_branch = _scaled(branch, back_branch, node.scale)
    if isinstance(node.shortcut, nn.Gate):
        plain = signal._replace(echo=None)
        way = (branch._replace(echo=None), back_branch)
        return _gated(plain, scope, way, _inside(scope, "shortcut"), node.shortcut)
    beside, back_beside = visit(node.shortcut, start, _inside(scope, "shortcut"))  # pyright: ignore
    forward = math.exp(branch.log_energy - np.logaddexp(branch.log_energy, beside.log_energy))
    forward = np.array([forward, 1 - forward])
    after = added(signal, branch, beside)
    # How much of what goes into this unit goes into the next one.
    direct = _is_input(signal, branch, beside, after)
    again = math.sqrt(forward[1]) if direct else 0.0
    if branch.gate is not None:
        shared, gates = signal.gates.carried(after.carry).after(branch.gate.weighed(forward[0]))
        after = after._replace(shared=shared, gates=gates.beyond(again))
    terms = _terms(branch.split(after.features), beside.split(after.features))
    after = after._replace(values=tuple(map(total_of, *terms)))

    def back(cotangent: Cotangent) -> Cotangent:
        start = cotangent._replace(own=Way(), gate=None, gates=Gates())
        tilt = _tilt_of(branch, after, cotangent)

        def handed(
            way: Back, part: Signal, share: float, tilt: np.ndarray | None, *terms: Terms
        ) -> Cotangent:
            mine = start.of_kernels(share * part.kernels, after.kernels)
            mine = mine._replace(tilt=tilt, by_value=_by_term(cotangent, *terms))
            mine = mine.regrouped(part.features)
            return way(mine._replace(echo=mine.itself))

        one = handed(back_branch, branch, forward[0], tilt, *terms)
        other = handed(back_beside, beside, forward[1], cotangent.tilt, *terms[::-1])
        total = joined(signal, one, other, forward)
        if one.gate is None:
            return total
        gate = one.gate.weighed(_part(signal, one, other))
        shared, gates = cotangent.gates.beyond(again).after(gate)
        return total._replace(shared=shared, gates=gates)

    return after, back


def _inside(scope: Scope, part: str) -> Scope:
    """Return where a branch or shortcut is measured: a gradient has a column for each."""
    source = Source(scope.source.activation, (scope.path, f"{part}_gradient"))
    return scope.inside(part, source=source)


def _terms(branch: Signal, beside: Signal) -> tuple[Terms, Terms]:
    """Return how the values of a sum's terms are spread, branch and shortcut, by segment.

    Empty where both are normal, and where they are not followed: unless random weights make the two
    independent.
    """
    one, other = branch.spread, beside.spread
    if not (one or other) or branch.echo is not None or branch.log or beside.log:
        return (), ()
    segments = range(len(branch.features))
    return (
        one or tuple(Normal(*branch.normal(i)) for i in segments),
        other or tuple(Normal(*beside.normal(i)) for i in segments),
    )


def _by_term(cotangent: Cotangent, mine: Terms, its: Terms) -> tuple[ByValue, ...]:
    """Return a gradient's energy by one of a sum's terms; empty where that is not followed."""
    every = zip(cotangent.by_value, mine, its, strict=False)
    found = [e.without(of, other) for e, of, other in every if isinstance(of, Values)]
    return tuple(found)


def _is_input(signal: Signal, branch: Signal, beside: Signal, after: Signal) -> bool:
    """Return whether the shortcut is the identity, and the branch independent of it."""
    same = beside.echo is not None and np.array_equal(beside.echo, signal.itself)
    return same and branch.echo is None and after.features == beside.features == signal.features


def _tilt_of(branch: Signal, total: Signal, cotangent: Cotangent) -> np.ndarray | None:
    """Return the tilt with a branch's value, from that with the sum's.

    Of a normal sum, the branch's value is a share of it, and a rest that the gradient does not see.
    """
    tilt = cotangent.tilt
    if tilt is None or branch.features != total.features:
        return None
    within = [1 - s.mean[:, None] ** 2 for s in (branch, total)]
    rho = [
        1 - (1 - s.pair) / np.maximum(w, 1e-12)
        for s, w in zip((branch, total), within, strict=True)
    ]
    levels = [
        s.level[:, None] * scaled_by(s.log) * w
        for s, w in zip((branch, total), within, strict=True)
    ]
    share = np.minimum(levels[0] / np.maximum(levels[1], 1e-300), 1.0)
    pairs = share * tilt[:, :-1] + (rho[0] - share * rho[1]) * cotangent.pair
    return np.append(pairs, share * tilt[:, -1:] + 1 - share, axis=1)


def _echoes(a: Signal | Cotangent, b: Signal | Cotangent, spread: np.ndarray) -> np.ndarray:
    """Return the covariance of two functions of one value; 0 where weights made them unlike.

    Exact where one of them is the value itself, as a shortcut is.
    """
    if a.echo is None or b.echo is None:
        return np.zeros((len(a.pair), 1 + a.pair.shape[1]))
    nearer, farther = (
        (a.echo, b.echo) if a.echo[:, 0].sum() > b.echo[:, 0].sum() else (b.echo, a.echo)
    )
    return nearer[:, :1] * farther / np.maximum(spread, 1e-12)[:, None]


def added(signal: Signal, branch: Signal, beside: Signal) -> Signal:
    """Return the sum of two signals that came from one by ways of their own."""
    features = refined(branch.features, beside.features)
    a, b = branch.split(features), beside.split(features)
    for term, other in ((a, b), (b, a)):
        if not other.energy.any():
            total = signal.total.then(term.carry, term.own)
            return term._replace(total=total, data=None, echo=None, gates=Gates())
    log = max(a.log, b.log)
    ea, eb = (s.energy * math.exp(2 * (s.log - log)) for s in (a, b))
    shape = (-1,) + (1,) * (ea.ndim - 1)
    spread = 1 - signal.split(features).mean ** 2 if a.echo is not None else np.ones(len(features))
    shared = (a.mean * b.mean)[:, None] + _echoes(a, b, spread)
    cross = 2 * shared[:, 0].reshape(shape) * np.sqrt(ea * eb)
    energy = ea + eb + cross
    flat = [np.maximum(e.reshape(len(features), -1).mean(1), 0) for e in (ea, eb, energy)]
    whole = np.maximum(flat[2], 1e-300)
    both = 2 * shared[:, 1:] * np.sqrt(flat[0] * flat[1])[:, None]
    pair = (flat[0][:, None] * a.pair + flat[1][:, None] * b.pair + both) / whole[:, None]
    mean = (a.mean * np.sqrt(flat[0]) + b.mean * np.sqrt(flat[1])) / np.sqrt(whole)
    count = np.array(features)
    fa = float((count * flat[0]).sum() / max((count * whole).sum(), 1e-300))
    fb = 1 - fa
    carry = fa * a.carry + fb * b.carry
    # The product of the two has mean zero, and a scatter of its own.
    self_share, nodes = a._replace(energy=energy).weights
    alike = self_share + float((nodes * a.pair * b.pair).mean(0).sum())
    crossing = 4 * fa * fb / sum(features)
    # The same where each channel's mean is taken out.
    (left_a, steady_a), (left_b, steady_b) = (s._replace(energy=energy).steady for s in (a, b))
    ca, cb = (float((count * flat[i] * left).sum()) for i, left in enumerate((left_a, left_b)))
    ca = ca / max(ca + cb, 1e-300)
    apart = 4 * ca * (1 - ca) * (self_share + float((nodes * steady_a * steady_b).mean(0).sum()))
    own = Doubt(
        fa**2 * a.own.variance + fb**2 * b.own.variance + crossing * alike,
        fa * a.own.slack + fb * b.own.slack,
        ca**2 * a.own.within + (1 - ca) ** 2 * b.own.within + apart / sum(features),
        fa**2 * a.own.again + fb**2 * b.own.again,
    )
    within = None
    if a.within is not None or b.within is not None:
        of_a, of_b = a.without_means, b.without_means
        within = flat[0].reshape(shape) * of_a + flat[1].reshape(shape) * of_b
        within = within / whole.reshape(shape)
    return signal._replace(
        features=features,
        log=log,
        energy=energy,
        within=within,
        pair=np.clip(pair, -1, 1),
        mean=mean,
        # One term at one site and the other at another are two more products, of mean zero.
        overlap=min(fa**2 * a.overlap + fb**2 * b.overlap + 2 * fa * fb / sum(features), 1.0),
        latent=fa**2 * a.latent + fb**2 * b.latent,
        common=fa**2 * a.common + fb**2 * b.common,
        kernels=fa * a.kernels + fb * b.kernels,
        reach=fa * a.reach + fb * b.reach,
        unlike=1 + fa**2 * (a.unlike - 1) + fb**2 * (b.unlike - 1) + 4 * fa * fb * max(alike, 0.0),
        total=signal.total.then(carry, own),
        own=own,
        carry=carry,
        laws=(None,) * len(features),
        drawn=0,
        cubes=fa**3 * a.cubes + fb**3 * b.cubes,
        spectrum=None,
        data=None,
        sizes=ca**2 * a.of_sizes + (1 - ca) ** 2 * b.of_sizes + apart,
        values=(),
        echo=None,
        gates=Gates(),
    )._scaled()


EVERY = np.ones(2)


def joined(
    signal: Signal, branch: Cotangent, beside: Cotangent, forward: np.ndarray = EVERY
) -> Cotangent:
    """Return the sum of what branch and shortcut hand back.

    Args:
      signal: what came in.
      branch: what comes back through the branch.
      beside: and through the shortcut.
      forward: the shares of their energies in the signal that goes out.
    """
    total = branch.plus(beside)
    part = _part(signal, branch, beside)
    own = _returned(np.array([part, 1 - part]), forward, [branch.own, beside.own])
    if branch.echo is not None and beside.echo is not None:
        # Two copies of one gradient add as they are.
        echo = _echoes(branch, beside, np.ones(len(branch.pair)))
        echo = 2 * echo * math.sqrt(part * (1 - part))
        more = 1 + echo[:, :1]
        pair = (total.pair + echo[:, 1:]) / more
        energy = total.energy * more.reshape(-1, *(1,) * len(signal.spatial))
        return total._replace(energy=energy, pair=pair, own=own)
    self_share, nodes = signal.weights
    alike = self_share + float((nodes * branch.pair * beside.pair).mean(0).sum())
    crossing = 4 * part * (1 - part) * alike / sum(signal.features)
    return total._replace(own=own._replace(variance=own.variance + crossing))


def _part(signal: Signal, one: Cotangent, other: Cotangent) -> float:
    """Return the share of one of two gradients' energies."""
    logs = one.log_energy(signal.batch), other.log_energy(signal.batch)
    whole = np.logaddexp(*logs)
    return math.exp(logs[0] - whole) if whole > -math.inf else 0.5


def _gated(
    signal: Signal, scope: Scope, way: tuple[Signal, Back], inner: Scope, gate: nn.Gate
) -> tuple[Signal, Back]:
    """Add ``t * branch`` and ``(1 - t) * x``; t is the sigmoid of a convolution of x."""
    branch, back_branch = way
    conv, back_conv = expected(gate.conv, signal._replace(own=Doubt()), inner)
    level = float(conv.level[0]) * scaled_by(conv.log)
    mean = float(conv.mean[0]) * math.sqrt(level)
    variance = max(level - mean**2, 1e-12)
    open_ = moments("sigmoid", None, mean, variance)
    carry_square = 1 - 2 * open_.mean + open_.second
    rho = np.clip((conv.pair[0] * level - mean**2) / variance, -1, 1)
    open_pair = open_.pair(rho)
    carry_pair = 1 - 2 * open_.mean + open_pair
    inner.rows.append(_gate_row(signal, conv, open_.second, inner))

    def times(s: Signal, square: float, pair: np.ndarray) -> Signal:
        pairs = np.clip(s.pair * pair / square, -1, 1)
        return s._replace(energy=s.energy * square, pair=pairs, within=None)

    scaled = times(branch, open_.second, open_pair)
    kept = times(signal._replace(own=Doubt(), carry=1.0), carry_square, carry_pair)
    after = added(signal, scaled, kept)
    tension = signal.log_energy, branch.log_energy

    def back(cotangent: Cotangent) -> Cotangent:
        start = cotangent._replace(own=Way())

        def part(square: float, pair: np.ndarray, features: tuple[int, ...]) -> Cotangent:
            c = start._replace(tilt=None, by_value=()).regrouped(features)
            pairs = np.clip(c.pair * pair / square, -1, 1)
            return c._replace(energy=c.energy * square, pair=pairs)

        through = back_branch(part(open_.second, open_pair, branch.features))
        direct = part(carry_square, carry_pair, signal.features)
        # dL/dz of the gate: (branch - x) sigmoid'(z) dL/dy.
        gap = math.exp(np.logaddexp(*tension))
        steer = part(open_.slope * gap, 0 * rho, conv.features)
        handed = joined(signal, through, direct.plus(back_conv(steer)))
        return handed

    return after, back


def _gate_row(signal: Signal, conv: Signal, second: float, inner: Scope) -> Row:
    square = np.full_like(conv.energy, second)
    gate = conv._replace(energy=square, log=0.0)
    # What the gate's values hand back is not what its Residual counts to the shortcut.
    source = Source(inner.source.activation, None)
    return Row(inner.path, inner.path, "Gate", source, signal, gate, Doubt(0.0, 0.2))
