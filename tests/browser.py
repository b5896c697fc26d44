"""A real browser for tests: Chromium without a window, driven over its DevTools protocol.

The protocol runs over a pair of pipes (``--remote-debugging-pipe``): JSON, each message ended by
a zero byte.
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time

BINARY = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Browser:
    """One process, one tab. A context manager.

    Attributes:
      requests: what the tab has asked for since it was opened; of a `data:` URL its kind.
      errors: what its scripts have thrown, and what its console has called an error.
    """

    def __init__(self):
        self.requests, self.errors, self._ids = [], [], itertools.count(1)
        self._profile = tempfile.mkdtemp()
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
        quiet = ("--no-first-run", "--disable-background-networking", "--disable-extensions")
        # The protocol reads descriptor 3 and writes 4: a shell puts them there.
        command = f'exec "$@" 3<&{there} 4>&{back}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "_", BINARY, *flags, *quiet, "--remote-debugging-pipe",
             f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=(there, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(there)
        os.close(back)
        self._buffer, self._session = b"", None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(10)
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _message(self):
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        name, told = message.get("method"), message.get("params", {})
        if name == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"].partition(",")[0])
        if name == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"].get("exception", {}).get("description", ""))
        if name == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(told["entry"]["text"])
        return message

    def send(self, method, **params):
        """The answer to a command of the protocol."""
        key = next(self._ids)
        message = {"id": key, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == key:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, path, width=1366, height=768, dark=False, scripts=True):
        """Opens a file and returns the seconds until it had loaded and drawn."""
        phone = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=phone)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media="", features=[scheme])
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.requests.clear()
        self.errors.clear()
        begun = time.monotonic()
        self.send("Page.navigate", url=path.resolve().as_uri())
        self._loaded()
        return time.monotonic() - begun

    def reload(self):
        """Reads the file again, as a page that refreshes itself does."""
        self.send("Page.reload")
        self._loaded()

    def _loaded(self):
        while self._message().get("method") != "Page.loadEventFired":
            pass
        self.send("Page.captureScreenshot", format="jpeg", quality=1)  # waits for a frame

    def run(self, expression):
        """The value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def place(self, selector):
        """The middle of an element, scrolled into view."""
        return self.run(
            f"(() => {{const e = document.querySelector({selector!r}); e.scrollIntoView({{block:"
            "'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]})()"
        )

    def hover(self, selector):
        """Moves the mouse over an element."""
        x, y = self.place(selector)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector):
        """Clicks on an element."""
        x, y = self.place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name):
        """Presses a key of the keyboard."""
        codes = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
                 "ArrowDown": 40}  # fmt: skip
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name,
                      windowsVirtualKeyCode=codes[name])  # fmt: skip

    def type(self, text):
        """Types into what has the focus."""
        self.send("Input.insertText", text=text)

    def picture(self, path, whole=False):
        """Writes a screenshot of what is in view, or of the whole page."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))
