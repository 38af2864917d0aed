"""The rules and dashboards of examples/, evaluated by a real Prometheus that scrapes a proxy under load.

    python monitoring.py PROMETHEUS PROMTOOL ADMIN EARLY

PROMETHEUS and PROMTOOL are the programs, ADMIN the proxy's admin address, EARLY a file with what /metrics said before the
first request. Ends with "all right".
"""

import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
RULES = EXAMPLES / "prometheus"
#: Below that of the test, so that the message is this script's.
PATIENCE_S = 90.0
PAUSE_S = 0.2
#: What Grafana puts in for its variables.
VARIABLES = {"$__rate_interval": "1m", "$job": "bellwether", "$instance": ".*", "$node": ".*", "${datasource}": "prometheus"}
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def load(path):
    return yaml.safe_load(path.read_text())


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"


def rules_are_sound(promtool):
    """Syntax, unit tests, and that every alert has both tests and says what to do."""
    run(promtool, "check", "rules", RULES / "recording.yml", RULES / "alerts.yml")
    run(promtool, "check", "config", RULES / "prometheus.yml")
    run(promtool, "test", "rules", "alerts_test.yml", cwd=RULES)
    alerts = [rule for group in load(RULES / "alerts.yml")["groups"] for rule in group["rules"]]
    for alert in alerts:
        assert alert["labels"]["severity"] in ("page", "ticket"), alert
        assert len(alert["annotations"]["summary"]) > 20 and len(alert["annotations"]["runbook"]) > 100, alert
    tests = {}
    for test in load(RULES / "alerts_test.yml")["tests"]:
        [check] = test["promql_expr_test"]
        name = re.search(r'alertname="(\w+)"', check["expr"])[1]
        tests.setdefault(name, set()).add(bool(check["exp_samples"]))
    assert tests == {alert["alert"]: {True, False} for alert in alerts}, tests


def panels():
    """Every query of every dashboard: its name and expression."""
    found = {}
    for path in sorted((EXAMPLES / "grafana").glob("*.json")):
        dashboard = json.loads(path.read_text())
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids) and dashboard["uid"] and dashboard["title"], path
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = target["expr"]
                for name, value in VARIABLES.items():
                    expression = expression.replace(name, value)
                assert "$" not in expression, expression
                found[f"{path.name}: {panel['title']} ({target['refId']})"] = expression
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                series = re.match(r"label_values\((.*), \w+\)$", variable["query"]["query"])[1]
                for name, value in VARIABLES.items():
                    series = series.replace(name, value)
                found[f"{path.name}: variable {variable['name']}"] = series
    assert len(found) > 50, found
    return found


def recorded():
    return {rule["record"]: rule["record"] for group in load(RULES / "recording.yml")["groups"] for rule in group["rules"]}


def series_exist_from_the_start(expressions, early):
    """What a rule or panel names is in the first scrape: a rate over it is then 0 and not missing."""
    names = set()
    for expression in expressions:
        names |= set(re.findall(r"(?<![\w:])(?:bellwether|process)_\w+", expression))
    present = set(re.findall(r"^(\w+)", early, re.MULTILINE))
    missing = sorted(name for name in names if name not in present)
    assert not missing, f"not there before the first request: {missing}"


def get(url):
    with OPENER.open(url, timeout=PATIENCE_S) as answer:
        return json.load(answer)


class Prometheus:
    """A running Prometheus that scrapes `target` every second; a context manager."""

    def __init__(self, program, target):
        self.program, self.target = program, target

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="bellwether-prometheus-")
        path = pathlib.Path(self.directory.name)
        config = load(RULES / "prometheus.yml")
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
        [job] = config["scrape_configs"]
        job["static_configs"] = [{"targets": [self.target]}]
        (path / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [self.program, f"--config.file={path / 'prometheus.yml'}", f"--storage.tsdb.path={path / 'data'}", "--web.listen-address=127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = []
        for line in self.process.stderr:
            said.append(line)
            listening = re.search(r'msg="Listening on" .*address=(?:\S+:)?(\d+)', line)
            if listening:
                break
        else:
            raise AssertionError(f"prometheus does not start: {''.join(said)}")
        self.base = f"http://127.0.0.1:{listening[1]}"
        # It goes on talking, and must not block on a full pipe.
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()
        self.until("it is ready", self.is_ready)
        return self

    def is_ready(self):
        try:
            with OPENER.open(self.base + "/-/ready", timeout=PATIENCE_S):
                return True
        except urllib.error.HTTPError:
            # It listens before it has opened its storage.
            return False

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.directory.cleanup()

    def query(self, expression):
        """The values of an instant query."""
        answer = get(f"{self.base}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        assert answer["status"] == "success", answer
        return [float(sample["value"][1]) for sample in answer["data"]["result"]]

    def until(self, what, holds):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if holds():
                return
            time.sleep(PAUSE_S)
        raise AssertionError(f"never happened: {what}")


def switch_policy(admin, policy):
    body = json.dumps({"policy": policy}).encode()
    request = urllib.request.Request(f"{admin}/api/v1/policy", body, {"Content-Type": "application/json"}, method="PUT")
    with OPENER.open(request, timeout=PATIENCE_S) as answer:
        assert answer.status == 200


def every_expression_returns_data(prometheus, expressions):
    """A number each: neither nothing nor only NaN."""
    silent = dict(expressions)

    def all_speak():
        for name, expression in list(silent.items()):
            if any(math.isfinite(value) for value in prometheus.query(expression)):
                del silent[name]
        return not silent

    try:
        prometheus.until("data", all_speak)
    except AssertionError as error:
        raise AssertionError(f"no data: {json.dumps(silent, indent=1)}\n{error}") from None


def rules_are_healthy(prometheus):
    def evaluated():
        groups = get(prometheus.base + "/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        broken = [rule for rule in rules if rule["health"] == "err"]
        assert not broken, broken
        return rules and all(rule["health"] == "ok" for rule in rules)

    prometheus.until("every rule is evaluated", evaluated)


def step(text):
    """Tells whoever waits that it goes on."""
    print(text, flush=True)


def main(program, promtool, admin, early):
    rules_are_sound(promtool)
    step("the rules are sound")
    expressions = panels()
    alerts = [rule["expr"] for name in ("alerts.yml", "recording.yml") for group in load(RULES / name)["groups"] for rule in group["rules"]]
    series_exist_from_the_start([*expressions.values(), *alerts], pathlib.Path(early).read_text())
    step("series exist from the start")
    with Prometheus(program, admin.removeprefix("http://")) as prometheus:
        prometheus.until("the proxy is scraped", lambda: prometheus.query('up{job="bellwether"}') == [1.0])
        prometheus.until("the model decides", lambda: prometheus.query("sum(bellwether_fallback_active)") == [0.0])
        step("the model decides")
        # While another policy routes, adaptive is compared with it.
        switch_policy(admin, "round-robin")
        prometheus.until("decisions are compared", lambda: sum(prometheus.query("sum(rate(bellwether_shadow_decisions_total[1m]))")) > 0)
        step("decisions are compared")
        every_expression_returns_data(prometheus, expressions | recorded())
        step("every expression returns data")
        rules_are_healthy(prometheus)
    step("all right")


main(*sys.argv[1:])
