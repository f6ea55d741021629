"""fit: train a network, go on where it stopped, and tell those who watch."""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from convjax import models, nn
from convjax.train import _arguments
from convjax.train._checkpoints import Checkpoints, writable
from convjax.train._dispatch import make_dispatch
from convjax.train._diverged import Replay, not_finite
from convjax.train._evaluate import Evaluation, Held
from convjax.train._identity import identity
from convjax.train._json_lines import JsonLines
from convjax.train._lock import locked
from convjax.train._mesh import check_divides, everywhere, here, mesh_of, spread
from convjax.train._observe import Observer, Pace, Row
from convjax.train._order import network_order, read_order
from convjax.train._recipe import Recipe
from convjax.train._rows import finite, rows_of
from convjax.train._set_up import is_written
from convjax.train._source import Source, padded
from convjax.train._spans import due, spans
from convjax.train._state import State, assembled, parts, start
from convjax.train._termination import Termination
from convjax.train._watch import plain


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a run ends with.

    Attributes:
      net: the trained network.
      averaged: the network of the averaged weights, or None.
      state: the last state.
      rows: what was measured, step by step, as ``read_rows`` returns it; only of the steps that
        this call took. The ``layers`` of a watched step are a mapping kept in one array, which
        ``dict`` makes a dictionary.
      test: loss and accuracy on the test examples at the end, or None.
    """

    net: Any
    averaged: Any
    state: State
    rows: tuple[Row, ...]
    test: Mapping[str, Any] | None


def fit(
    net: nnx.Module,
    source: Source,
    recipe: Recipe,
    *,
    folder: str | os.PathLike | None = None,
    test: Held | None = None,
    observers: Sequence[Observer] = (),
    devices: int | Sequence[Any] | Mesh | None = None,
    optimiser: optax.GradientTransformation | None = None,
    optimiser_name: str | None = None,
    frozen: models.Split | None = None,
    call: Callable[..., Any] | None = None,
) -> Fitted:
    """Train a network by a recipe; with a folder, go on where an earlier call stopped.

    Any network: a node of ``convjax.nn``; a module of Flax NNX as it is; one of another framework
    in an ``nn.Function``, or of Linen's in ``nnx.bridge.ToNNX``. The mode is passed as its call's
    signature has it, or set by ``net.train()`` and ``net.eval()`` on copies, so that each training
    step and each test is in its own; random numbers come from the recipe's seed where the call
    takes ``rngs``, and else from those that the network holds, whose counts are part of the state.

    A run is a function of network, initial values, source, recipe, optimiser and what is frozen:
    it may be stopped at any instant and taken up again with the same arguments, and ends with the
    same bits on the same machine. All of them are noted beside every checkpoint: arrays of the
    source and initial values by digests, a stream's files by names, sizes and labels, functions by
    their code and what they close over. Another run's folder is refused by the first that differs,
    and stays as it is; in the run's own folder a damaged checkpoint is passed over.

    What is not noted: ``test`` and ``observers``, which do not change the run; the bytes inside a
    stream's files; what a source of your own computes, unless its ``about`` says so; the methods of
    your own classes; what an object holds outside of Python; the versions of the libraries, though
    a newer one may describe its optimiser in other words. A function that refers to what changes
    from call to call, such as a counter, is another each time: give ``optimiser_name`` then.

    A folder belongs to one run at a time: a second is refused at once. On SIGTERM the run ends
    after the dispatch under way, with a checkpoint, by that signal; a handler that you installed is
    called in its place, and where it returns the run goes on. In a run of several processes all of
    them end so, with the exit code 143.

    Args:
      net: the network with its initial values; it is not changed.
      source: where batches come from, such as ``data.resident(…)``.
      recipe: how to train.
      folder: where checkpoints, ``metrics.jsonl`` and a lock are kept; None keeps nothing.
      test: ``(images, labels)``, or a function that returns an iterable of such batches.
      observers: told of every dispatch: ``train.ProgressBar()``, ``train.TensorBoard(…)``, ….
      devices: how many, or which, share each batch; None is one, or all in a run of several
        processes (``train.distributed``). Their number changes nothing but how sums are rounded,
        with two exceptions: dropout and stochastic depth have random numbers of each device, and so
        does ``batch_norm="per_device"`` take its statistics.
      optimiser: any optax transformation, in the place of the recipe's.
      optimiser_name: what ``optimiser`` is called; the folder's run is told by it and not by what
        the transformation consists of.
      frozen: what ``models.freeze`` returns. Frozen parameters stay: they get no gradient, have no
        part in its norm, and the optimiser does not see them. Frozen batch norms run in evaluation,
        unless the split was made with ``statistics="moving"``.
      call: how the network is called, if not as its signature says: ``call(net, x)``, which is
        passed ``train`` and ``rngs`` where it takes them by name; see ``nn.applied``.

    Returns:
      The trained network, its averages, the state, and the rows that were measured.

    Raises:
      Diverged: the loss or the gradient became NaN or infinite; the message names step and unit.
      OSError: the disk is full; the message says what a checkpoint needs.
      ValueError: a batch that the devices or ``accumulate`` do not divide, a folder of another run
        or one in use, a split of another network, what the recipe asks for and a network of another
        framework cannot do.

    Example:
      >>> from flax import nnx
      >>> from convjax import data, models, train
      >>> net = models.resnet_cifar(8, width=4, in_features=1, rngs=nnx.Rngs(0))
      >>> source = data.resident(*data.digits("train"), batch_size=32)
      >>> fitted = train.fit(net, source, train.Recipe(steps=60), test=data.digits("test"))
      >>> fitted.test["accuracy"] > 0.5
      True
    """
    _arguments.check_plan(net, recipe, optimiser)
    _arguments.source(source)
    observers = _arguments.observers(observers)
    _arguments.optimiser_name(optimiser_name, optimiser)
    mesh = mesh_of(devices)
    check_divides(source.batch_size, mesh)
    run = _Run(net, source, recipe, mesh, optimiser, frozen, test, _arguments.call(call))
    if folder is None:
        return run.go(observers, None)
    folder = writable(folder)
    about = identity(
        net,
        source,
        recipe,
        mesh,
        optimiser=optimiser,
        optimiser_name=optimiser_name,
        frozen=frozen,
        call=call,
    )
    with (
        locked(folder),
        Termination(folder) as termination,
        Checkpoints(folder / "checkpoints", about=about) as checkpoints,
    ):
        lines = [JsonLines(folder / "metrics.jsonl")] if jax.process_index() == 0 else []
        return run.go([*lines, *observers], checkpoints, termination)


class _Run:
    """One run: what is compiled, and the loop."""

    def __init__(
        self,
        net: nnx.Module,
        source: Source,
        recipe: Recipe,
        mesh: Mesh | None,
        optimiser: optax.GradientTransformation | None,
        frozen: models.Split | None,
        test: Held | None,
        call: Callable[..., Any] | None,
    ):
        self.graphdef, *_ = parts(net)
        self.call = call
        self.source = source
        self.recipe = recipe
        self.mesh = mesh
        self.arrays = everywhere(source.arrays, mesh)
        self.frozen = frozen
        chosen = {"optimiser": optimiser, "frozen": frozen}
        self.dispatch = make_dispatch(net, source, recipe, mesh=mesh, call=call, **chosen)
        how = {"mesh": mesh, "call": call}
        self.evaluation = None if test is None else Evaluation(self.graphdef, test, **how)
        if self.evaluation is not None:
            self.evaluation.check(*parts(net)[1:])
        self.net = net
        self.example = None
        self.start = lambda: everywhere(start(net, recipe, **chosen), mesh)

    def go(
        self,
        observers: Sequence[Observer],
        checkpoints: Checkpoints | None,
        termination: Termination | None = None,
    ) -> Fitted:
        """Run to the end."""
        state = self.start()
        first = 0
        if checkpoints is not None and (found := checkpoints.restore(state)) is not None:
            first, state = found
        log = _Log(self, observers, checkpoints)
        begun: list[Observer] = []
        try:
            for observer in observers:
                observer.begin(first, self.recipe.steps, self.source.batch_size)
                begun.append(observer)
            state = self._loop(state, first, log, checkpoints, termination)
        finally:
            for observer in begun:
                observer.end()
        tested = log.tested
        if tested is None and self.evaluation is not None:
            tested = self.test(state)
        state = here(state, self.mesh)
        averaged = state.average and assembled(self.graphdef, **state.average)
        net = assembled(self.graphdef, state.params, state.rest)
        return Fitted(net, averaged, state, tuple(log.rows), tested)

    def _loop(
        self,
        state: State,
        first: int,
        log: "_Log",
        checkpoints: Checkpoints | None,
        termination: Termination | None,
    ) -> State:
        recipe = self.recipe
        for begin, end in spans(first, recipe):
            state, metrics = self.dispatch(state, self.arrays, self.inputs(begin, end), end - begin)
            # Of the dispatch before: the device is busy while it is read.
            log.add(begin, end, metrics)
            last = end == recipe.steps
            stop = termination is not None and termination.due() and not last
            keep = checkpoints is not None and (stop or due(end, recipe.checkpoint_every))
            if last or keep:
                log.check(state, end)
            if self.evaluation is not None and (last or due(end, recipe.test_every)):
                log.flush()
                log.test(self.test(state))
            if checkpoints is not None and (last or keep):
                log.sync()
                checkpoints.save(end, state)
            if checkpoints is not None and termination is not None and stop:
                checkpoints.wait()
                termination.obey(end)
        log.flush()
        return state

    @functools.cached_property
    def order(self) -> Callable[[str], tuple[int, ...]]:
        """A key that sorts the paths of a network into forward order."""
        if is_written(self.net, self.call):
            return functools.cache(network_order(self.net))
        key = jax.random.key(0)
        images, _ = jax.eval_shape(self.source.batch, self.arrays, self.example, key)

        def call(net: Any, x: Any) -> Any:
            return nn.applied(net, x, train=True, rngs=nnx.Rngs(0), call=self.call)

        x = jax.ShapeDtypeStruct(images.shape, jax.numpy.float32)
        return functools.cache(read_order(nn.read(self.net, x, call=call).labels))

    def inputs(self, begin: int, end: int) -> Any:
        """Return the inputs of some steps, filled up to a whole dispatch."""
        inputs = padded(self.source.inputs(begin, end - begin), self.recipe.dispatch)
        self.example = jax.tree.map(lambda array: array[0], inputs)
        return spread(inputs, self.mesh)

    def test(self, state: State) -> dict[str, Any]:
        """Return the row of a test of this state."""
        if self.evaluation is None:
            raise ValueError("there is nothing to test on")
        row = {"kind": "test", "step": int(state.step)}
        row |= self.evaluation(state.params, state.rest)
        if state.average is not None:
            found = self.evaluation(**state.average)
            row |= {f"average_{name}": value for name, value in found.items()}
        return row


class _Log:
    """Turns what dispatches return into rows, one dispatch late, and hands them on."""

    def __init__(self, run: _Run, observers: Sequence[Observer], checkpoints: Checkpoints | None):
        self.run = run
        self.observers = observers
        self.checkpoints = checkpoints
        self.rows: list[Row] = []
        self.tested: Row | None = None
        self.waiting: tuple[int, int, Any] | None = None
        self.clock = time.perf_counter()
        self.first = True

    def add(self, begin: int, end: int, metrics: Any) -> None:
        """Take one dispatch's metrics, and hand on those before."""
        before, self.waiting = self.waiting, (begin, end, metrics)
        if before is not None:
            self._hand_on(*before)

    def flush(self) -> None:
        """Hand on what waits."""
        before, self.waiting = self.waiting, None
        if before is not None:
            self._hand_on(*before)

    def sync(self) -> None:
        """Hand on what waits, and have it on the disk: no checkpoint is ahead of its rows."""
        self.flush()
        for observer in self.observers:
            if isinstance(observer, JsonLines):
                observer.flush()

    def check(self, state: State, end: int) -> None:
        """Stop if a loss or a gradient is not finite, or what the last step left as parameters."""
        self.flush()
        if made := not_finite(state.params):
            self._stop(end - 1, made)

    def test(self, row: Row) -> None:
        """Hand on the row of a test; its time is not counted as training."""
        self.tested = row
        self._tell([row], row["step"], math.nan)
        self.clock = time.perf_counter()

    def _hand_on(self, begin: int, end: int, metrics: Any) -> None:
        metrics = jax.device_get(metrics)
        now = time.perf_counter()
        rows = list(rows_of(metrics, begin, end, self.run.recipe.watch, lambda: self.run.order))
        took, self.clock = now - self.clock, now
        bad = next((row["step"] for row in rows if not finite(row)), None)
        # The first dispatch compiles: its time tells nothing of the others.
        self._tell(rows, end, math.nan if self.first else took / (end - begin))
        self.first = False
        if bad is not None:
            self._stop(bad)

    def _tell(self, rows: Sequence[Row], end: int, seconds: float) -> None:
        left = (self.run.recipe.steps - end) * seconds
        pace = Pace(self.run.source.batch_size / seconds, left)
        for observer in self.observers:
            observer.record([plain(row) for row in rows], pace)
        self.rows += rows

    def _stop(self, step: int, made: Sequence[str] = ()) -> None:
        run = self.run
        of = (run.graphdef, run.source, run.recipe, run.dispatch, run.arrays, run.inputs)
        replay = Replay(*of, run.frozen, run.call)
        raise replay.explained(step, run.start(), self.checkpoints, made)
