"""The dashboard in a real browser, before a proxy under load.

    python dashboard.py CHROMIUM ADMIN CLIENTS OPERATE READ PICTURES

CHROMIUM is the program, ADMIN and CLIENTS the proxy's two addresses, OPERATE and READ tokens of these roles, PICTURES a
directory for screenshots. Says "stop the proxy" before its last check and waits for a line. Ends with "all right".
"""

import json
import pathlib
import re
import sys
import time
import urllib.request

from browser import PATIENCE_S, Browser

HOSTILE = "<script>window.broken++</script>"
HOSTILE_MODEL = "</script><script>window.broken=2</script><svg onload=window.broken=3>"

SETTLED = "document.querySelector('#link').dataset.state === 'live'"


class Proxy:
    def __init__(self, admin, clients, token):
        self.admin, self.clients, self.token = admin, clients, token
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path):
        request = urllib.request.Request(self.admin + path, headers={"Authorization": f"Bearer {self.token}"})
        with self.opener.open(request, timeout=60) as answer:
            return answer.read().decode()

    def decisions(self, policy):
        """Decisions of that policy so far, by node."""
        found = {}
        for line in self.get("/metrics").splitlines():
            if line.startswith("bellwether_decisions_total{") and f'policy="{policy}"' in line:
                labels, value = line.rsplit(" ", 1)
                found[re.search(r'node="((?:[^"\\]|\\.)*)"', labels)[1]] = float(value)
        return found

    def chat(self, model):
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi [output=3]"}]}).encode()
        request = urllib.request.Request(self.clients + "/v1/chat/completions", body, {"Content-Type": "application/json"})
        with self.opener.open(request, timeout=60) as answer:
            assert answer.status == 200
            answer.read()


def text(page, selector):
    return page.run(f"document.querySelector({json.dumps(selector)})?.textContent ?? null")


def click(page, selector, label=None):
    """Clicks the element, or the one among them with that label."""
    pick = "true" if label is None else f"one.textContent === {json.dumps(label)}"
    find = f"[...document.querySelectorAll({json.dumps(selector)})].find((one) => {pick} && one.offsetParent !== null)"
    page.until(f"Boolean({find})", f"{selector} {label or ''} is there to be clicked")
    page.run(f"void {find}.click()")


def sign_in(page, token):
    page.until("document.querySelector('#token').open", "the page asks for a token")
    assert page.run("document.activeElement.id") == "token-value", "the field has the focus"
    page.type(token)
    page.press("Enter")
    page.until("!document.querySelector('#token').open")


def only_refusals(messages):
    """A browser tells of every 401 itself; anything else is ours."""
    ours = [message for message in messages if "401" not in message]
    assert not ours, ours


def nothing_was_said(page):
    messages = page.take_messages()
    assert not messages, messages


def asks_for_a_token(page, admin, operate):
    page.open(admin + "/")
    page.until("document.querySelector('#token').open")
    page.type("no such token")
    page.press("Enter")
    page.until("document.querySelector('#token-why').textContent.includes('visible')", "a token with spaces is refused here")
    page.type("wrong-token-of-some-length")
    page.press("Enter")
    page.until("document.querySelector('#token-why').textContent.includes('not known')", "a wrong token is told")
    sign_in(page, operate)
    page.until(SETTLED, "events come")
    only_refusals(page.take_messages())


def shows_numbers_that_move(page):
    page.until("document.querySelectorAll('.nodes tbody tr').length === 4", "a row for each node")
    answers = "Number(document.querySelectorAll('.tile')[2].querySelector('.under').textContent.match(/of ([0-9,]+) in all/)?.[1].replaceAll(',', '') ?? 0)"
    before = page.until(answers, "requests are counted")
    page.until(f"{answers} > {before} + 20", "the count grows under load")
    page.until("document.querySelectorAll('.tile .value')[0].textContent.match(/^[0-9.]+\\/s$/)", "a rate is shown")
    curve = "document.querySelector('.nodes .line.observed').getAttribute('d')"
    drawn = page.until(curve, "observed times are drawn")
    page.until(f"{curve} !== {json.dumps(drawn)}", "the curve moves")
    page.until("document.querySelector('.tile.wide .under').textContent === 'the learned model decides'", "the model decides")
    page.until("document.querySelector('.nodes .line.predicted').getAttribute('d')", "predicted times are drawn")


def shows_the_model(page, proxy):
    for _ in range(3):
        proxy.chat(HOSTILE_MODEL)
    click(page, "nav a", "Model")
    page.until("location.hash === '#model' && document.title.startsWith('Model')")
    page.until("document.querySelector('.learned li')?.textContent.match(/adds|takes/)", "coefficients in words")
    page.until("document.querySelectorAll('table')[0].querySelectorAll('tbody tr').length === 4", "every node is in the table")
    page.until(f"document.querySelector('main').innerText.includes({json.dumps(HOSTILE_MODEL)})", "the model's name is shown as text")
    page.until("document.querySelectorAll('.tile .value')[1].textContent.includes('off by')", "the error is told")
    page.until("document.querySelectorAll('.tile .value')[2].textContent.match(/saved|lost/)", "what it is worth is told")
    page.until("document.querySelector('.plot .line')?.getAttribute('d')", "the error over time is drawn")


def explains_decisions(page):
    click(page, "nav a", "Decisions")
    page.until("document.querySelectorAll('.list details').length > 5", "decisions are listed")
    page.run("void document.querySelector('.list details summary').click()")
    page.until("document.querySelector('.list details[open] tr[data-chosen]')", "its candidates are shown, the chosen one marked")
    assert "with probability" in text(page, ".list details[open] .body"), "it says why"
    click(page, ".list details[open] .body a[href^='#decisions/']")
    page.until("location.hash.match(/^#decisions\\/[0-9]+$/) && document.querySelector('details[open] .body table')", "a link leads to one decision")


def switches_the_policy(page, proxy):
    click(page, "nav a", "Fleet")
    click(page, "button", "Switch policy")
    page.until("document.querySelector('#confirm').open && document.activeElement.id === 'policy-choice'", "the dialog has the focus")
    page.press("Escape")
    page.until("!document.querySelector('#confirm').open", "Escape closes it")
    assert sum(proxy.decisions("round-robin").values()) == 0, "nothing was switched yet"
    click(page, "button", "Switch policy")
    page.until("document.querySelector('#confirm').open && document.querySelector('#policy-choice')")
    page.run("const choice = document.querySelector('#policy-choice'); choice.value = 'round-robin'; choice.dispatchEvent(new Event('change'))")
    page.run("document.querySelector('#confirm-no').focus()")
    page.press("Tab")
    assert page.run("document.activeElement.id") == "confirm-yes", "the keyboard reaches the button"
    page.press("Enter")
    page.until("document.querySelector('#toast').textContent === 'round-robin decides now.'", "it is confirmed")
    page.until("document.querySelector('.tile.wide .value').textContent === 'round-robin'", "the page shows it")
    page.until("document.querySelector('.tile.wide .under').textContent === 'the model only learns'")
    before = proxy.decisions("adaptive")
    end = time.monotonic() + PATIENCE_S
    after = {}
    # Even but for nodes that a busy machine kept from answering for a moment.
    while sum(after.values()) < 60 or min(after.values()) < 0.6 * max(after.values()):
        assert time.monotonic() < end, f"turns never became even: {after}"
        page.until(SETTLED)
        after = proxy.decisions("round-robin")
    assert proxy.decisions("adaptive") == before, "adaptive decides nothing any more"
    spread = sorted(before.values())
    assert spread[-1] > 1.5 * spread[0], f"it did before, and unevenly: {before}"
    assert json.loads(proxy.get("/api/v1/policy"))["policy"] == "round-robin"


def drains_and_changes_a_node(page, proxy):
    page.run("location.hash = '#nodes/' + encodeURIComponent(%s)" % json.dumps(HOSTILE))
    page.until(f"document.querySelector('h1 .long')?.textContent === {json.dumps(HOSTILE)}", "a deep link leads to a node of any name")
    state = "document.querySelector('h1 .state').textContent"
    page.until(f"{state} === 'up' || {state} === 'ramping'")
    click(page, ".actions button", "Drain")
    click(page, "#confirm-yes")
    page.until(f"{state} === 'draining' || {state} === 'drained'", "it drains")
    click(page, ".actions button", "Resume")
    click(page, "#confirm-yes")
    page.until(f"!{state}.startsWith('drain')", "it is resumed")
    click(page, ".actions button", "Change weight")
    page.run("document.querySelector('#weight').value = '2.5'")
    click(page, "#confirm-yes")
    page.until("document.querySelector('#toast').textContent.includes('has weight 2.5')")
    click(page, ".actions button", "Change limit")
    page.run("document.querySelector('#limit').value = '7'")
    click(page, "#confirm-yes")
    page.until("document.querySelector('#toast').textContent.includes('has a limit of 7')")
    click(page, ".actions button", "Change limit")
    page.run("document.querySelector('#limit').value = 'auto'")
    click(page, "#confirm-yes")
    page.until("document.querySelector('#toast').textContent.includes('finds its limit out')")
    click(page, ".actions button", "Change limit")
    page.run("document.querySelector('#limit').value = '7'")
    click(page, "#confirm-yes")
    page.until("document.querySelector('#toast').textContent.includes('has a limit of 7')")
    node = next(one for one in json.loads(proxy.get("/api/v1/nodes"))["nodes"] if one["name"] == HOSTILE)
    assert (node["weight"], node["max_in_flight"], node["draining"]) == (2.5, 7, False), node


def keeps_readers_from_changing(page, read):
    page.run("sessionStorage.clear()")
    page.ask("Page.reload")
    page.until("document.readyState === 'complete'")
    sign_in(page, read)
    page.until(SETTLED, "a reader sees everything")
    only_refusals(page.take_messages())
    page.run("location.hash = '#model'")
    click(page, ".actions button", "Forget everything")
    click(page, "#confirm-yes")
    page.until("document.querySelector('#confirm-wrong').textContent.includes('may look and not change')", "it says why not")
    refused = [message for message in page.take_messages() if "403" not in message]
    assert not refused, refused
    click(page, "#confirm-no")


def looks_right(page, pictures):
    """No element wider than the screen, text that can be told from its ground; the pictures are for people."""
    views = {"fleet": "#fleet", "node": "#nodes/fast-1", "model": "#model", "decisions": "#decisions"}
    for dark in [False, True]:
        for width, height in [(1280, 900), (390, 844)]:
            page.screen(width, height, dark=dark, phone=width < 500)
            page.until(f"innerWidth === {width} && matchMedia('(prefers-color-scheme: {'dark' if dark else 'light'})').matches")
            for name, place in views.items():
                page.run(f"location.hash = {json.dumps(place)}")
                ready = {"fleet": ".nodes tbody tr", "node": ".learned li", "model": ".learned li", "decisions": ".list details"}[name]
                page.until(f"document.querySelector({json.dumps(ready)})")
                wide = page.run("[...document.querySelectorAll('main *, header *')].filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && getComputedStyle(one).clipPath === 'none').map((one) => one.outerHTML.slice(0, 120))")
                assert not wide and page.run("document.documentElement.scrollWidth") <= width, f"{name} is wider than {width}: {wide}"
                page.screenshot(pictures / f"{name}-{width}-{'dark' if dark else 'light'}.png")
            ground = page.run("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"[0-9]+", ground)[:3])) < 200) == dark, f"the ground is {ground}"


def says_when_it_is_stale(page):
    page.screen(1280, 900)
    page.run("location.hash = '#fleet'")
    print("stop the proxy", flush=True)
    sys.stdin.readline()
    page.until("!document.querySelector('#stale').hidden && document.body.classList.contains('is-stale')", "old figures are said to be old")
    assert "old" in text(page, "#stale"), text(page, "#stale")


def step(check, page, *args):
    """One check. Its name tells whoever waits that it goes on."""
    print(check.__name__, flush=True)
    check(page, *args)


def main(chromium, admin, clients, operate, read, pictures):
    pictures = pathlib.Path(pictures)
    proxy = Proxy(admin, clients, operate)
    with Browser(chromium) as page:
        page.screen(1280, 900)
        step(asks_for_a_token, page, admin, operate)
        step(shows_numbers_that_move, page)
        step(shows_the_model, page, proxy)
        step(explains_decisions, page)
        step(switches_the_policy, page, proxy)
        step(drains_and_changes_a_node, page, proxy)
        nothing_was_said(page)
        step(looks_right, page, pictures)
        assert page.run("window.broken ?? null") is None, "something hostile ran"
        nothing_was_said(page)
        step(keeps_readers_from_changing, page, read)
        step(says_when_it_is_stale, page)
    print("all right", flush=True)


main(*sys.argv[1:])
