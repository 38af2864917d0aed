"""Looks at a report in headless Chromium, in light and dark, wide and narrow: no error on the console, no request to
anywhere, no empty chart, nothing wider than the screen, and text that stands out from its background. Speaks the WebDriver protocol
itself, as the standard library suffices for it.

    report_page.py PAGE [DIRECTORY FOR SCREENSHOTS]
"""

import base64
import json
import pathlib
import subprocess
import sys
import urllib.request

# Sizes in CSS pixels: a desk and a phone.
SCREENS = {"wide": (1280, 900), "narrow": (390, 844)}

LOOK = r"""
const luminance = colour => {
  const part = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = colour.match(/[\d.]+/g).slice(0, 3).map(value => part(value / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (a, b) => {
  const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
};
const paper = getComputedStyle(document.body).backgroundColor;
const charts = [...document.querySelectorAll("svg")].map(svg => {
  const marks = [...svg.querySelectorAll("path:not(.axis),rect")];
  const areas = marks.map(mark => mark.getBBox()).filter(box => box.width + box.height > 1);
  const size = svg.getBoundingClientRect();
  return {name: svg.getAttribute("aria-label"), marks: areas.length, labels: svg.querySelectorAll("text").length,
          width: size.width, height: size.height};
});
const text = [...document.querySelectorAll("h1,h2,p,td,th,li,figcaption,pre")].map(
  element => contrast(getComputedStyle(element).color, paper));
const label = document.querySelector("svg text");
return {paper: luminance(paper), charts, text: Math.min(...text),
        label: contrast(getComputedStyle(label).fill, paper),
        letters: label.getBoundingClientRect().height,
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        fetched: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:"))};
"""


class Browser:
    """One session of a browser."""

    def __init__(self, base, size):
        self.base = base
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--disable-background-networking", "--hide-scrollbars", "--window-size=%d,%d" % size]
        always = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self.session = "/session/" + answer["sessionId"]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def do(self, method, path, body=None):
        return self.call(method, self.session + path, body)

    def devtools(self, command, **parameters):
        return self.do("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})


def look(base, page, name, size, scheme, pictures):
    browser = Browser(base, size)
    try:
        width, height = size
        browser.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        browser.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.do("POST", "/url", {"url": page.as_uri()})
        seen = browser.do("POST", "/execute/sync", {"script": LOOK, "args": []})
        said = browser.do("POST", "/se/log", {"type": "browser"})
        if pictures:
            shot = browser.devtools("Page.captureScreenshot", captureBeyondViewport=True)
            (pictures / f"{name}-{scheme}.png").write_bytes(base64.b64decode(shot["data"]))
    finally:
        browser.do("DELETE", "")
    assert said == [], said
    assert seen["fetched"] == [], seen["fetched"]
    assert seen["charts"], "no chart"
    for chart in seen["charts"]:
        assert chart["marks"] >= 1 and chart["labels"] >= 4 and chart["width"] > 250 and chart["height"] > 100, chart
    assert seen["text"] >= 4.5 and seen["label"] >= 4.5, seen
    assert seen["letters"] >= 9, seen["letters"]
    assert seen["overflow"] <= 0, seen["overflow"]
    assert (seen["paper"] < 0.1) == (scheme == "dark"), seen["paper"]
    return len(seen["charts"])


def main():
    page = pathlib.Path(sys.argv[1]).resolve()
    pictures = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        port = None
        for line in driver.stdout:
            if "started successfully on port" in line:
                port = int(line.strip().rstrip(".").rsplit(" ", 1)[1])
                break
        assert port, "chromedriver did not start"
        counts = {look(f"http://127.0.0.1:{port}", page, name, size, scheme, pictures)
                  for name, size in SCREENS.items() for scheme in ("light", "dark")}
        print(f"{counts.pop()} charts")
    finally:
        driver.kill()
        driver.wait()


main()
