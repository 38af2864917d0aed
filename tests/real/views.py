"""Views of the dashboard by themselves, in a real browser.

    python views.py CHROMIUM ADMIN

CHROMIUM is the program, ADMIN the proxy's address for operators, without tokens. What is checked is in views.js; says what
that says.
"""

import pathlib
import sys

from browser import Browser


def main(chromium, admin):
    with Browser(chromium) as page:
        # Any page of that listener but the dashboard itself, which would ask on its own.
        page.open(admin + "/livez")
        print(page.run(pathlib.Path(__file__).with_name("views.js").read_text()), flush=True)


main(*sys.argv[1:])
