"""Checkpoints: what is restored is what was saved, to the bit, or it is refused by name."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from convjax import train

ROOT = Path(__file__).parent.parent.parent
ABOUT = {"net": "ResNet-8", "recipe": {"steps": 10, "widths": (4, 8)}}


def tree(seed):
    """A state with everything that one may hold, of random bits."""
    draw = np.random.default_rng(seed)

    def bits(dtype, *shape):
        size = np.dtype(dtype).itemsize
        return jnp.asarray(draw.integers(0, 256, (*shape, size), np.uint8).view(dtype)[..., 0])

    params = {"stage1/0": {"kernel": bits(np.float32, 3, 2, 5)}, "stage1": {"0": bits("f4", 7)}}
    return {
        "step": jnp.int32(seed),
        "params": params,
        "half": [bits(jnp.bfloat16, 5, 3), bits(np.float16, 4)],
        "optimiser": optax.adam(1e-3).init(params),
        "none": (None, bits(np.uint32, 2)),
        "bool": jnp.asarray(draw.integers(0, 2, 9).astype(bool)),
        "zeros": -jnp.zeros((4, 3)),
        "empty": jnp.zeros((0, 3)),
        "key": jax.random.key(seed),
    }


def is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def as_bytes(state):
    data = [jax.random.key_data(x) if is_key(x) else x for x in jax.tree.leaves(state)]
    return [(x.dtype.name, x.shape, np.asarray(x).tobytes()) for x in data]


def zeros_like(state):
    def zero(leaf):
        return jax.random.key(99) if is_key(leaf) else jnp.zeros_like(leaf)

    return jax.tree.map(zero, state)


def same(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and as_bytes(one) == as_bytes(other)


def small(seed):
    return {"w": jax.random.normal(jax.random.key(seed), (3, 4)), "n": jnp.int32(seed)}


def saved(folder, steps=(10, 20), state=small, **options):
    with train.Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step))


def restored(folder, like=None, **options):
    """Whatever is restored, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with train.Checkpoints(folder, **options) as checkpoints:
            found = checkpoints.restore(small(0) if like is None else like)
    assert all(w.category is UserWarning for w in caught)
    return found, [str(w.message) for w in caught]


def files(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def test_what_is_restored_is_what_was_saved(tmp_path):
    state = tree(3)
    with train.Checkpoints(tmp_path, about=ABOUT) as checkpoints:
        assert checkpoints.restore(state) is None
        checkpoints.save(5, state)
        step, again = checkpoints.restore(zeros_like(state))  # it waits for the save
    assert step == 5 and same(again, state)
    found, said = restored(tmp_path, zeros_like(state), about=ABOUT)
    assert found[0] == 5 and same(found[1], state) and not said


def test_it_is_restored_like_abstract_arrays(tmp_path):
    state = {"w": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)}
    saved(tmp_path, (1,), lambda _: state)
    (_, again), _ = restored(tmp_path, jax.eval_shape(lambda: state))
    assert same(again, state)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.ShapeDtypeStruct((2, 3), jnp.bfloat16, sharding=device)
    (_, again), _ = restored(tmp_path, {"w": like})
    assert same(again, state) and again["w"].sharding == device


def test_the_state_may_be_donated_once_it_is_saved(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 + 7, state), donate_argnums=0)
    state = jax.jit(lambda: {"w": jnp.arange(250_000.0), "v": jnp.arange(250_000.0) ** 0.5})()
    before, where = as_bytes(state), state["w"].unsafe_buffer_pointer()
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        over = jax.block_until_ready(overwrite(state))
        # The very memory has been overwritten, so a view of it would show.
        assert state["w"].is_deleted() and over["w"].unsafe_buffer_pointer() == where
        _, again = checkpoints.restore(over)
        assert as_bytes(again) == before
        # And what was restored may be donated as well, twice.
        assert float(overwrite(overwrite(again))["w"][5]) == 7
        assert as_bytes(checkpoints.restore(over)[1]) == before


def test_saving_returns_before_the_files_are_written(tmp_path, monkeypatch):
    go_on, save = threading.Event(), ocp.Checkpointer.save

    def held_up(self, *args, **kwargs):
        assert go_on.wait(60)
        save(self, *args, **kwargs)

    monkeypatch.setattr(ocp.Checkpointer, "save", held_up)
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(1))
        assert checkpoints.steps == ()
        go_on.set()
    assert checkpoints.steps == (1,)


def test_what_goes_wrong_while_writing_is_raised_and_what_was_there_stays(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    saved(tmp_path, (1, 2), keep=2)
    checkpoints = train.Checkpoints(tmp_path, keep=2)
    monkeypatch.setattr(ocp.Checkpointer, "save", full)
    checkpoints.save(3, small(3))
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(4, small(4))
    checkpoints.close()
    assert checkpoints.steps == (1, 2)


ORBAX = 'RESOURCE_EXHAUSTED: Error writing "w/0": Failed to write 4000 bytes to file 14: '
ORBAX += "No space left on device [os_error_code='28']"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError(ORBAX)])
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, error):
    def full(self, path, **_):
        path.parent.mkdir()
        path.with_name("begun").write_bytes(b"1")
        raise error

    saved(tmp_path, (1, 2))
    with train.Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(ocp.Checkpointer, "save", full)
        checkpoints.save(3, small(3))
        with pytest.raises(OSError) as caught:
            checkpoints.wait()
        monkeypatch.undo()
        assert caught.value.errno == 28 and caught.value.filename == str(tmp_path)
        said = r"the checkpoint of step 3 needs 52 bytes, of which [\d,]+ are free; that of step 2"
        assert re.search(said, str(caught.value))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
        assert checkpoints.restore(small(0))[0] == 2
        checkpoints.save(3, small(3))
    assert checkpoints.steps == (2, 3)


@pytest.mark.parametrize("keep", [1, 3])
def test_old_ones_are_removed_once_a_newer_one_is_whole(tmp_path, keep, monkeypatch):
    removed, rmtree = {}, shutil.rmtree

    def watched(path, *args, **kwargs):
        if path.name.endswith(".removed") and path.exists():
            removed[path.name] = checkpoints.steps
        rmtree(path, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", watched)
    with train.Checkpoints(tmp_path, keep=keep) as checkpoints:
        for step in (1, 5, 9, 100):
            checkpoints.save(step, small(step))
    assert (
        removed
        == {
            1: {"1.removed": (5,), "5.removed": (9,), "9.removed": (100,)},
            3: {"1.removed": (5, 9, 100)},
        }[keep]
    )
    assert checkpoints.steps == (1, 5, 9, 100)[-keep:]


def test_the_same_step_can_be_saved_again(tmp_path):
    saved(tmp_path, (1, 2))
    saved(tmp_path, (2,), lambda _: small(77))
    (step, again), said = restored(tmp_path)
    assert step == 2 and same(again, small(77)) and not said


def test_a_newer_one_of_a_run_from_before_is_not_removed(tmp_path):
    saved(tmp_path, (100, 200))
    saved(tmp_path, (1, 2, 3))
    assert train.Checkpoints(tmp_path).steps == (2, 3, 100, 200)


def cut_short(path):
    largest = max(files(path / "state"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])


def emptied(path):
    for file in files(path):
        file.write_bytes(b"")


def without_record(path):
    (path / "record.json").unlink()


def without_data(path):
    for folder in path.rglob("d"):
        shutil.rmtree(folder)


def half_written(path):
    shutil.rmtree(path)
    path.mkdir()


def about_flipped(path):
    record = path / "record.json"
    text = record.read_text()
    assert "ResNet-8" in text
    record.write_text(text.replace("ResNet-8", "ResNet-9"))


def another_one(path):
    """A whole checkpoint under a wrong name."""
    shutil.rmtree(path)
    shutil.copytree(path.parent / "10", path)


DAMAGES = {
    cut_short: "state/.* is not what was written",
    emptied: r"record\.json cannot be read",
    without_record: r"record\.json is missing",
    without_data: "state/.* is missing",
    half_written: r"record\.json is missing",
    about_flipped: r"record\.json is not what was written",
    another_one: "it is of step 10",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_refused_and_the_one_before_it_used(tmp_path, damage):
    saved(tmp_path, about=ABOUT)
    damage(tmp_path / "20")
    (step, again), (said,) = restored(tmp_path, about=ABOUT)
    assert step == 10 and same(again, small(10))
    assert f"the checkpoint of step 20 in '{tmp_path}' is refused: " in said
    assert said.endswith("; going on from step 10")
    assert re.search(DAMAGES[damage], said)


def test_where_every_one_is_damaged_the_run_begins_again(tmp_path):
    saved(tmp_path)
    emptied(tmp_path / "10")
    cut_short(tmp_path / "20")
    found, said = restored(tmp_path)
    assert found is None and len(said) == 2
    assert all(text.endswith("; going on from the beginning") for text in said)


def test_a_damaged_one_is_replaced_and_one_in_the_past_removed(tmp_path):
    saved(tmp_path, (10, 20, 30), keep=3)
    emptied(tmp_path / "20")
    emptied(tmp_path / "30")
    with train.Checkpoints(tmp_path, keep=3) as checkpoints:
        with pytest.warns(UserWarning, match="refused"):
            assert checkpoints.restore(small(0))[0] == 10
        checkpoints.save(15, small(15))
        checkpoints.save(20, small(20))
        checkpoints.save(25, small(25))
    assert checkpoints.steps == (15, 20, 25, 30)
    saved(tmp_path, (30,), keep=3)
    (step, again), said = restored(tmp_path)
    assert step == 30 and same(again, small(30)) and not said


def test_a_damaged_one_does_not_count_among_those_kept(tmp_path):
    saved(tmp_path, (10, 20, 30), keep=3)
    emptied(tmp_path / "30")
    with train.Checkpoints(tmp_path, keep=2) as checkpoints:
        with pytest.warns(UserWarning, match="step 30 .* going on from step 20"):
            checkpoints.restore(small(0))
        checkpoints.save(40, small(40))
    assert checkpoints.steps == (20, 40)


OTHERS = {
    "shape": ({"w": jnp.zeros((4, 3)), "n": jnp.int32(0)}, r"\['w'\] is float32\[3, 4\] there"),
    "dtype": ({"w": jnp.zeros((3, 4)), "n": jnp.uint32(0)}, r"int32\[\] there and uint32\[\] here"),
    "more": ({**small(0), "z": jnp.zeros(3)}, r"it has no leaf \['z'\]"),
    "less": ({"w": jnp.zeros((3, 4))}, r"it has a leaf \['n'\]"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_one_with_other_leaves_is_refused(tmp_path, name):
    like, why = OTHERS[name]
    saved(tmp_path, (20,))
    before = {path: path.read_bytes() for path in files(tmp_path)}
    with pytest.raises(ValueError, match=f"step 20 in .* is another run's: .*{why}"):
        restored(tmp_path, like)
    assert before == {path: path.read_bytes() for path in files(tmp_path)}


def test_leftovers_of_a_killed_save_are_passed_over_and_cleared_away(tmp_path):
    saved(tmp_path, (10,))
    for name in ("20.saving", "20.saving.orbax-checkpoint-tmp", "5.removed"):
        shutil.copytree(tmp_path / "10", tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert train.Checkpoints(tmp_path).steps == (10,)
    (step, _), said = restored(tmp_path)
    assert step == 10 and not said
    saved(tmp_path, (20,))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "20", "notes"]


@pytest.mark.parametrize(
    ("key", "about", "texts"),
    [
        ("net", {**ABOUT, "net": "ResNet-20"}, ('"ResNet-8"', '"ResNet-20"')),
        ("recipe/steps", {**ABOUT, "recipe": {"steps": 11, "widths": [9]}}, ("10", "11")),
        ("recipe/widths/1", {**ABOUT, "recipe": {"steps": 10, "widths": [4]}}, ("8", "absent")),
        ("recipe/widths/0", {**ABOUT, "recipe": {"steps": 10, "widths": [5, 8]}}, ("4", "5")),
        ("recipe/widths", {"net": "ResNet-8", "recipe": {"steps": 10}}, ("[4, 8]", "absent")),
        ("seed", {**ABOUT, "seed": 0}, ("absent", "0")),
    ],
)
def test_another_runs_is_refused(tmp_path, key, about, texts):
    saved(tmp_path, about=ABOUT)
    checkpoints = train.Checkpoints(tmp_path, about=about)
    with pytest.raises(ValueError) as caught:
        checkpoints.restore(small(0))
    assert f"'{key}' is {texts[0]} there and {texts[1]} here" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_about_is_compared_as_json_holds_it_and_not_at_all_where_there_is_none(tmp_path):
    about = {"b": (1, 2), "a": float("nan")}
    saved(tmp_path, about=about)
    assert restored(tmp_path, about={"a": float("nan"), "b": [1, 2]})[0][0] == 20
    assert restored(tmp_path)[0][0] == 20


def test_bad_input_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=r"folder='.*file' is a file"):
        train.Checkpoints(file)
    with pytest.raises(ValueError, match=r"cannot write into folder='.*Not a directory"):
        train.Checkpoints(file / "inner")
    with pytest.raises(ValueError, match="keep=0 must be at least 1"):
        train.Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="about must be what JSON can hold"):
        train.Checkpoints(tmp_path, about={"net": object()})
    with pytest.raises(ValueError, match="step=-1 must be at least 0"):
        train.Checkpoints(tmp_path).save(-1, small(0))


def flip(folder, draw, count):
    """Flip random bits in random files of a checkpoint, one at a time; each time it is refused."""
    paths = [path for path in files(folder / "20") if path.stat().st_size]
    like = zeros_like(tree(0))
    for _ in range(count):
        path = paths[draw.integers(len(paths))]
        whole = path.read_bytes()
        place, bit = draw.integers(len(whole)), draw.integers(8)
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(bit)
        path.write_bytes(flipped)
        (step, again), said = restored(folder, like, about=ABOUT)
        path.write_bytes(whole)
        assert (step, len(said)) == (10, 1), (path, place, bit)
        assert same(again, tree(10)), (path, place, bit)
    (step, again), said = restored(folder, like, about=ABOUT)
    assert step == 20 and same(again, tree(20)) and not said


def test_a_flipped_bit_is_found(tmp_path):
    saved(tmp_path, state=tree, about=ABOUT)
    flip(tmp_path, np.random.default_rng(0), 25)


@pytest.mark.slow
def test_flipped_bits_are_found_wherever_they_are(tmp_path):
    saved(tmp_path, state=tree, about=ABOUT)
    flip(tmp_path, np.random.default_rng(1), 1000)


ONE_OF_TWO = """
import sys, warnings
import jax, numpy as np
from convjax import train

address, index, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if address != "alone":
    jax.distributed.initialize(address, 2, index)
mesh = jax.make_mesh((jax.device_count(),), ("data",))
whole = jax.NamedSharding(mesh, jax.P())
parts = jax.NamedSharding(mesh, jax.P("data"))

def put(host, sharding=whole):
    return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

host = np.random.default_rng(0).standard_normal((300, 50)).astype(np.float32)
grow = jax.jit(lambda state: jax.tree.map(lambda x: x * 2, state), donate_argnums=0)
state = {"w": put(host), "n": put(np.int32(3)), "none": None}
with train.Checkpoints(folder, keep=3) as checkpoints:
    assert checkpoints.restore(state) is None
    for step in range(4):
        checkpoints.save(step, state)
        state = grow(state)
    step, again = checkpoints.restore(state)
    assert step == 3 and checkpoints.steps == (1, 2, 3)
    assert jax.tree.map(lambda x: x.sharding, again) == jax.tree.map(lambda x: x.sharding, state)
    later = grow(grow(again))  # would one device write into the memory of another, it would show
    for device in later["w"].addressable_shards:
        np.testing.assert_array_equal(np.asarray(device.data), 2**5 * host)
    if index == 0:
        for file in (checkpoints._folder / "3").rglob("*"):
            file.is_file() and file.write_bytes(b"?")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step, again = checkpoints.restore(later)
    assert step == 2 and len(caught) == 1, (step, caught)
    np.testing.assert_array_equal(np.asarray(again["w"]), 2**2 * host)
    try:
        checkpoints.save(9, {"w": put(np.zeros(8, np.float32), parts)})
    except ValueError as error:
        assert "state['w'] must be held whole by every process" in str(error), error
        refused = True
    else:
        refused = False
    assert refused == (jax.process_count() == 2)
print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_replicas_on_many_devices_and_in_two_processes(tmp_path, processes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}" if processes == 2 else "alone"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}",
        "PYTHONPATH": str(ROOT),
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, address, str(index), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    try:
        for process in running:
            out, errors = process.communicate(timeout=240)
            assert process.returncode == 0 and out.endswith("fine\n"), out + errors
    finally:
        for process in running:
            process.kill()
            process.communicate()
