"""A headless Chromium that a test can drive: the DevTools protocol over one WebSocket, no driver in between.

WebDriver would need a second program of exactly the same version and hides what is wanted here: messages of the console,
media features, screen sizes. What the page does is waited for, never slept for.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import threading
import time

from websockets.sync.client import connect

#: Below that of the test, so that the message is this script's.
PATIENCE_S = 90.0
PAUSE_S = 0.05

ARGUMENTS = [
    "--headless=new",
    "--remote-debugging-port=0",
    # A container has neither user namespaces nor much shared memory. The page is ours.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--force-color-profile=srgb",
    "about:blank",
]


class Moved(Exception):
    """The page went elsewhere while it was asked."""


class Browser:
    """One Chromium with one page; a context manager."""

    def __init__(self, program):
        self.program = program
        self.messages = []
        self.number = 0

    def __enter__(self):
        self.profile = tempfile.mkdtemp(prefix="bellwether-chromium-")
        command = [self.program, f"--user-data-dir={self.profile}", *ARGUMENTS]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = []
        for line in self.process.stderr:
            said.append(line)
            if "DevTools listening on " in line:
                break
        else:
            raise AssertionError(f"chromium does not start: {''.join(said)}")
        # It goes on talking, and must not block on a full pipe.
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()
        address = line.split("DevTools listening on ")[1].strip()
        self.socket = connect(address, max_size=None, open_timeout=PATIENCE_S)
        self.session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    def ask(self, method, **params):
        """Sends a command and returns its result; events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv(timeout=PATIENCE_S))
            if answer.get("id") == self.number:
                said = answer.get("error", {}).get("message", "")
                if "navigated" in said or "context" in said:
                    raise Moved(said)
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            if "method" in answer:
                self.hear(answer["method"], answer.get("params", {}))

    def hear(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.messages.append(f"exception: {json.dumps(params['exceptionDetails'])}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.messages.append(f"console: {json.dumps(params['args'])}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.messages.append(f"{params['entry']['source']}: {params['entry']['text']} {params['entry'].get('url', '')}")

    def run(self, expression):
        """The value of a JavaScript expression in the page."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def until(self, expression, what=None):
        """Waits until the expression is true, and returns its value."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            # An element has no value outside the page.
            try:
                value = self.run(f"((value) => (value instanceof Node ? true : value))({expression})")
            except Moved:
                continue
            if value:
                return value
            time.sleep(PAUSE_S)
        page = self.run("document.body.innerText.slice(0, 1500)")
        raise AssertionError(f"never happened: {what or expression}\n--- the page:\n{page}\n--- the console:\n{self.messages}")

    def open(self, url):
        self.ask("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def screen(self, width, height, dark=False, phone=False):
        """Size of the window, and the theme that the system asks for."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = "dark" if dark else "light"
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def type(self, text):
        self.ask("Input.insertText", text=text)

    def press(self, key, code=None):
        text = {"Enter": "\r", " ": " "}.get(key)
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32}
        common = {"key": key, "code": code or key, "windowsVirtualKeyCode": codes.get(key, 0)}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.ask("Input.dispatchKeyEvent", **down, **common)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path, whole=False):
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, optimizeForSpeed=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))

    def take_messages(self):
        """Errors and warnings of the console since the last call."""
        self.run("0")
        messages, self.messages = self.messages, []
        return messages
