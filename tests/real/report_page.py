"""Looks at a report in headless Chromium, in light and dark, wide and narrow: no error on the console, no request to
anywhere, no empty chart, nothing wider than the screen, and text that stands out from its background.

    report_page.py CHROMIUM PAGE [DIRECTORY FOR SCREENSHOTS]
"""

import pathlib
import sys

from browser import Browser

# Sizes in CSS pixels: a desk and a phone.
SCREENS = {"wide": (1280, 900), "narrow": (390, 844)}

LOOK = r"""(() => {
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
})()"""


def look(browser, page, name, size, scheme, pictures):
    width, height = size
    browser.screen(width, height, dark=scheme == "dark", phone=width < 600)
    browser.open(page.as_uri())
    seen = browser.run(LOOK)
    if pictures:
        browser.screenshot(pictures / f"{name}-{scheme}.png", whole=True)
    said = browser.take_messages()
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


def main(chromium, page, pictures=None):
    page = pathlib.Path(page).resolve()
    pictures = pathlib.Path(pictures) if pictures else None
    with Browser(chromium) as browser:
        counts = {look(browser, page, name, size, scheme, pictures)
                  for name, size in SCREENS.items() for scheme in ("light", "dark")}
    print(f"{counts.pop()} charts")


main(*sys.argv[1:])
