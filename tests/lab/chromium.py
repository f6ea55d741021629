"""A browser without a window, for tests: driven over two pipes by its own protocol, offline."""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
    *("--disable-sync", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND"),
    "--remote-debugging-pipe",
)
SECONDS = 60
# The browser reads its orders from file 3 and answers in file 4.
START = """
import fcntl, os, sys
orders, answers = (fcntl.fcntl(int(file), fcntl.F_DUPFD, 10) for file in sys.argv[1:3])
os.dup2(orders, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
SETTLED = """
new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))
"""


class Chromium:
    """One browser; ``open`` gives a page of it."""

    def __init__(self):
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        flags = [*FLAGS, f"--user-data-dir={self._home.name}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(theirs_in), str(theirs_out), PROGRAM, *flags],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._count = 0
        self._rest = b""
        self.events: list[dict] = []

    def ask(self, method, session=None, **params):
        """Send an order and return its answer; what happens meanwhile is kept in ``events``."""
        self._count += 1
        order = {"id": self._count, "method": method, "params": params}
        order |= {"sessionId": session} if session else {}
        os.write(self._to, json.dumps(order).encode() + b"\0")
        while True:
            message = self._message(method)
            if message.get("id") == self._count:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def wait_for(self, method, session):
        """Return once something has happened."""
        while not any(e["method"] == method and e.get("sessionId") == session for e in self.events):
            self.events.append(self._message(method))

    def _message(self, waiting):
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            read = os.read(self._from, 1 << 20) if ready else b""
            assert read, f"the browser does not answer to {waiting}"
            self._rest += read
        first, _, self._rest = self._rest.partition(b"\0")
        return json.loads(first)

    def open(self, path, width=1200, height=900, dark=False, touch=False):
        """Open a file and wait until it is drawn."""
        return Page(self, path, width, height, dark, touch)

    def close(self):
        """End the browser."""
        os.close(self._to)
        os.close(self._from)
        self._process.terminate()
        self._process.wait(SECONDS)
        self._home.cleanup()


class Page:
    """One page; places are in CSS pixels."""

    def __init__(self, browser, path, width, height, dark, touch):
        self._browser = browser
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        found = browser.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )
        self._ask("Emulation.setTouchEmulationEnabled", enabled=touch)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[theme])
        self.visit(path)

    def visit(self, path):
        """Open a file in the place of the one that is open."""
        self._browser.events.clear()
        self._ask("Page.navigate", url=Path(path).resolve().as_uri())
        self._browser.wait_for("Page.loadEventFired", self._session)
        self.settle()

    def _ask(self, method, **params):
        return self._browser.ask(method, self._session, **params)

    def settle(self):
        """Wait until what was asked for is drawn."""
        self.run(SETTLED)

    def run(self, script):
        """Return the value of an expression, awaited."""
        found = self._ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def point(self, x, y):
        """Move the mouse there."""
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def touch(self, x, y):
        """Put a finger there and lift it."""
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            self._ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.settle()

    def press(self, key):
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self._ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, text="\r" * (key == "Enter")
            )
        self.settle()

    def click(self, selector, index=0):
        """Click on the middle of an element."""
        x, y = self.middle(selector, index)
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def middle(self, selector, index=0):
        """Bring an element into view and return where its middle is."""
        name = json.dumps(selector)
        return self.run(
            f"(() => {{ const e = document.querySelectorAll({name})[{index}]; "
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )

    @property
    def requests(self):
        """Addresses that the page has asked for."""
        return [e["params"]["request"]["url"] for e in self._happened("Network.requestWillBeSent")]

    @property
    def complaints(self):
        """Errors and warnings of the page."""
        told = [e["params"] for e in self._happened("Runtime.consoleAPICalled")]
        thrown = [e["params"] for e in self._happened("Runtime.exceptionThrown")]
        return told + thrown + [e["params"] for e in self._happened("Log.entryAdded")]

    def _happened(self, method):
        events = self._browser.events
        return [e for e in events if e["method"] == method and e.get("sessionId") == self._session]

    def close(self):
        """Close the page."""
        self._ask("Page.close")
