#!/usr/bin/env python3
"""Uses the page of refusion-serve as a person would, in headless Chromium.

    browse.py URL TEXT PICTURE.png [--phone] [--dark] [--key KEY] [--stop PID]

Loads the page, asks TEXT, waits for the answer and for the one beside it, plays it back with the
keyboard, and takes a picture. Fails where the page is wider than its window, where an element that
people operate has no name, or where the console holds an error. --key types the key that the page asks
for first. --stop presses Escape while the server, process PID, stands still with the answer. Standard
library only; the browser is driven through its debugging pipe.
"""
import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time


class Browser:
    def __init__(self, folder, width, height, dark):
        commands, self.to = os.pipe()
        self.back, replies = os.pipe()

        def wire():  # the pipe's ends are descriptors 3 and 4 of the browser
            os.dup2(commands, 103)
            os.dup2(replies, 104)
            os.dup2(103, 3)
            os.dup2(104, 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--remote-debugging-pipe", "--user-data-dir=" + folder],
            close_fds=False, preexec_fn=wire, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(replies)
        self.number, self.rest, self.session, self.trouble = 0, b"", None, []
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(domain + ".enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 500)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def end(self):
        """With all of its processes, which write into its folder."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def message(self):
        while b"\0" not in self.rest:
            more = os.read(self.back, 1 << 16)
            if not more:
                sys.exit("browse: the browser ended")
            self.rest += more
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            reply = self.message()
            if reply.get("id") == self.number:
                if "error" in reply:
                    sys.exit(f"browse: {method}: {reply['error']['message']}")
                return reply["result"]
            self.listen(reply)

    def listen(self, event):
        params = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.trouble.append(params["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.trouble.append(" ".join(str(one.get("value", one)) for one in params["args"]))
        elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.trouble.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))

    def value(self, expression):
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in reply:
            sys.exit(f"browse: {expression}: {reply['exceptionDetails']}")
        return reply["result"].get("value")

    def wait(self, expression, seconds=60):
        end = time.monotonic() + seconds
        while not self.value(f"!!({expression})"):
            if time.monotonic() > end:
                sys.exit(f"browse: waited {seconds} s for {expression}; console: {self.trouble}; the page: "
                         + self.value(STATE))
            time.sleep(0.05)

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


# The page, where something did not come.
STATE = """JSON.stringify({text: document.getElementById("text").value, focus: document.activeElement.id,
    sending: document.getElementById("send").disabled, says: document.body.innerText})"""

# People find each of these by a name: its label, its words, or aria-label.
NAMELESS = """[...document.querySelectorAll("button, input, select, textarea, summary")]
    .filter(one => !(one.labels && one.labels.length) && !one.textContent.trim() && !one.ariaLabel)
    .map(one => one.outerHTML)"""


def main():
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("text")
    options.add_argument("picture")
    for flag in ("--phone", "--dark"):
        options.add_argument(flag, action="store_true")
    options.add_argument("--key")
    options.add_argument("--stop", type=int)
    options = options.parse_args()
    width, height = (390, 844) if options.phone else (1200, 900)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(folder, width, height, options.dark)
        try:
            use(browser, options)
        finally:
            browser.end()


def use(browser, options):
    browser.call("Page.navigate", url=options.url)
    if options.key:
        browser.wait('document.querySelector("[type=password]:focus")')
        browser.trouble = [line for line in browser.trouble if "401" not in line]
        browser.call("Input.insertText", text=options.key)
        browser.press("Enter", 13)
    browser.wait('document.querySelector("#settings select")')
    browser.wait('document.querySelector("#text:focus")')  # autofocus comes with the first frame
    browser.call("Input.insertText", text=options.text)
    browser.wait('document.getElementById("text").value')
    if options.stop:
        os.kill(options.stop, signal.SIGSTOP)
    browser.press("Enter", 13)
    if options.stop:
        browser.wait("document.getElementById('send').disabled")
        browser.press("Escape", 27)
        browser.wait("!document.getElementById('send').disabled")
        os.kill(options.stop, signal.SIGCONT)
    else:
        browser.wait('document.querySelector(".turn.assistant .place")')
        browser.wait("!document.getElementById('send').disabled")
    said = browser.value("document.querySelector('.turn.assistant').innerText")
    problem = browser.value("document.getElementById('problem').textContent")
    if problem:
        sys.exit("browse: the page reports: " + problem)
    if options.stop:
        if "stopped" not in said:
            sys.exit("browse: the answer was not stopped: " + said)
    else:
        lines = browser.value("document.querySelectorAll('.figures tbody tr').length")
        at_end = browser.value("document.querySelector('.turn.assistant input[type=range]').value")
        browser.value("document.querySelector('.turn.assistant input[type=range]').focus()")
        browser.press("Home", 36)
        at_start = browser.value("document.querySelector('.turn.assistant .note').textContent")
        browser.press("End", 35)
        if lines < 1 or int(at_end) < 1 or at_start != "nothing is decided":
            sys.exit(f"browse: {lines} lines of figures, {at_end} events; at the beginning: {at_start}")
    with open(options.picture, "wb") as out:
        out.write(base64.b64decode(browser.call("Page.captureScreenshot")["data"]))
    wide = browser.value("document.documentElement.scrollWidth")
    nameless = browser.value(NAMELESS)
    if wide > (390 if options.phone else 1200) or nameless or browser.trouble:
        sys.exit(f"browse: {wide} pixels wide; without a name: {nameless}; console: {browser.trouble}")
    print(said)


if __name__ == "__main__":
    main()
