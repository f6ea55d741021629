"""A lock that ends with its process, and SIGTERM, which leaves a checkpoint."""

import os
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from convjax import train
from convjax.train._lock import locked
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.train.conftest import small

RECIPE = train.Recipe(steps=6, dispatch=2, learning_rate=0.05)
OTHER = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("process 7 on elsewhere")
file.flush()
print("held", flush=True)
input()
"""


@pytest.mark.usefixtures("quick_compilation")
def test_a_folder_in_use_is_refused_until_its_process_has_died(source, tmp_path):
    command = [sys.executable, "-c", OTHER, str(tmp_path / "lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(ValueError, match="in use by process 7 on elsewhere; wait until"):
                train.fit(small(), source, RECIPE, folder=tmp_path)
            assert not (tmp_path / "checkpoints").exists()
        finally:
            other.kill()
    with locked(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / "lock").read_text()


def test_a_process_keeps_itself_from_a_folder(tmp_path):
    again, said = locked(tmp_path / ".." / tmp_path.name), "another call in this process"
    with locked(tmp_path), pytest.raises(ValueError, match=said), again:
        pass
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    import fcntl

    def missing(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "lockf", missing)
    said = r"without locks \(Operation not supported\)"
    with pytest.warns(UserWarning, match=said), locked(tmp_path):
        pass


class Signalled:
    """Sends SIGTERM to this process when it hears of a step."""

    def __init__(self, step=-1, times=1):
        self.step, self.times = step, times

    def begin(self, first, stop, batch_size):
        self.first = first

    def record(self, rows, pace):
        if any(row["step"] == self.step for row in rows):
            for _ in range(self.times):
                signal.raise_signal(signal.SIGTERM)

    def end(self):
        self.ended = True


@pytest.fixture
def killed(monkeypatch):
    """What this process would have sent itself."""
    sent = []
    monkeypatch.setattr(os, "kill", lambda *args: sent.append(args))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield sent
    signal.signal(signal.SIGTERM, before)


def steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


@pytest.mark.later
@pytest.mark.usefixtures("quick_compilation")
def test_sigterm_writes_a_checkpoint_and_ends_by_the_signal(source, tmp_path, killed, capsys):
    whole = train.fit(small(), source, RECIPE)
    observer = Signalled(step=0)
    with pytest.raises(SystemExit) as caught:
        train.fit(small(), source, RECIPE, folder=tmp_path, observers=[observer])
    assert caught.value.code == 143 and observer.ended
    assert killed == [(os.getpid(), signal.SIGTERM)]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    # What is heard of the first dispatch is heard during the second.
    assert steps(tmp_path) == [4]
    said = f"SIGTERM: the checkpoint of step 4 is in {str(tmp_path)!r}; the same call goes on"
    assert said in capsys.readouterr().err
    observer = Signalled()
    fitted = train.fit(small(), source, RECIPE, folder=tmp_path, observers=[observer])
    assert observer.first == 4 and len(killed) == 1
    jax.tree.map(np.testing.assert_array_equal, fitted.state, whole.state)


@pytest.mark.later
@pytest.mark.usefixtures("quick_compilation")
def test_a_handler_of_the_users_is_called_and_may_go_on(source, tmp_path, killed):
    called = []
    signal.signal(signal.SIGTERM, lambda *args: called.append((args, steps(tmp_path))))
    fitted = train.fit(small(), source, RECIPE, folder=tmp_path, observers=[Signalled(step=0)])
    assert called == [((signal.SIGTERM, None), [4])] and int(fitted.state.step) == 6
    assert signal.getsignal(signal.SIGTERM).__name__ == "<lambda>" and killed == []
    # In the last dispatch there is nothing to save: the signal is handed on after the end.
    recipe = train.Recipe(steps=2, dispatch=2)
    train.fit(small(), source, recipe, folder=tmp_path / "b", observers=[Signalled(step=1)])
    assert killed == [(os.getpid(), signal.SIGTERM)]


@pytest.mark.later
@pytest.mark.usefixtures("quick_compilation")
def test_a_second_signal_does_not_wait(source, tmp_path, killed):
    recipe = train.Recipe(steps=2, dispatch=2)
    observer = Signalled(step=1, times=2)
    # The second hands on at once, as the end of the run does; here neither is the end of the test.
    train.fit(small(), source, recipe, folder=tmp_path, observers=[observer])
    assert killed == [(os.getpid(), signal.SIGTERM)] * 2


@pytest.mark.later
@pytest.mark.usefixtures("quick_compilation")
def test_signals_are_left_alone_without_a_folder_where_ignored_and_in_other_threads(
    source, tmp_path, killed
):
    recipe = train.Recipe(steps=1, dispatch=1)
    heard = []

    class Looks(Signalled):
        def record(self, rows, pace):
            heard.append(signal.getsignal(signal.SIGTERM))

    train.fit(small("none"), source, recipe, observers=[Looks()])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    train.fit(small("none"), source, recipe, folder=tmp_path / "a", observers=[Looks()])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    options = {"folder": tmp_path / "b", "observers": [Looks()]}
    thread = threading.Thread(
        target=train.fit, args=(small("none"), source, recipe), kwargs=options
    )
    thread.start()
    thread.join()
    assert heard == [signal.SIG_DFL, signal.SIG_IGN, signal.SIG_DFL]
