"""The dashboard before two hundred nodes: what it costs is counted in elements and bytes, which no busy machine changes.

    large_dashboard.py CHROMIUM ADMIN

Ends with "all right".
"""

import sys
import urllib.request

from browser import Browser

NODES = 200
#: Rows of the table; the other nodes are on further pages.
ROWS = 50
#: Everything on the page. A page that made a row for each node would have twice as many.
ELEMENTS_MAX = 3_000
#: The first event of a stream, and each later one.
BYTES_MAX = (40_000, 20_000)


def event_bytes(admin):
    """Bytes of two events of the stream that the page reads."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(admin + "/api/v1/live?compact=true&events=2", timeout=60) as answer:
        blocks = answer.read().split(b"\n\n")
    return [len(block) for block in blocks if block.startswith(b"event: live")]


def main(chromium, admin):
    with Browser(chromium) as page:
        page.screen(1280, 900)
        page.ask("Page.addScriptToEvaluateOnNewDocument", source="window.longTasks = 0; new PerformanceObserver((list) => { window.longTasks += list.getEntries().length; }).observe({ type: 'longtask', buffered: true });")
        page.open(admin + "/")
        page.until(f"document.querySelectorAll('.strip .cell').length === {NODES}", "every node has its cell")
        page.until(f"document.querySelectorAll('.nodes tbody tr').length === {ROWS}", "the table shows a page")
        elements = page.run("document.querySelectorAll('*').length")
        assert elements < ELEMENTS_MAX, elements
        answers = "Number(document.querySelectorAll('.tile')[2].querySelector('.under').textContent.match(/of ([0-9,]+) in all/)?.[1].replaceAll(',', '') ?? 0)"
        before = page.until(answers, "requests are counted")
        page.run("window.first = document.querySelector('.nodes tbody tr')")
        page.until(f"{answers} > {before} + 100", "the count grows under load")
        assert page.run("document.querySelectorAll('*').length") <= elements + 50, "the page does not grow with time"
        assert page.run("window.first === document.querySelector('.nodes tbody tr')"), "rows are changed in place"
        first = page.run("document.querySelector('.nodes tbody tr th a').textContent")
        page.run("document.querySelector('[aria-label=\"Next page\"]').click()")
        page.until(f"document.querySelector('.nodes tbody tr th a').textContent !== {first!r}", "the next page has other nodes")
        assert page.run("document.querySelectorAll('.nodes tbody tr').length") == ROWS
        page.run("const field = document.querySelector('#filter'); field.value = 'rack-24/'; field.dispatchEvent(new Event('input'))")
        page.until("document.querySelectorAll('.nodes tbody tr').length === 8", "a filter finds a rack")
        sizes = event_bytes(admin)
        assert len(sizes) == 2 and all(size < most for size, most in zip(sizes, BYTES_MAX)), sizes
        messages = page.take_messages()
        assert not messages, messages
        print(f"{elements} elements, events of {sizes} bytes, {page.run('window.longTasks')} long tasks", file=sys.stderr)
    print("all right", flush=True)


main(*sys.argv[1:])
