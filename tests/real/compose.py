"""Holds examples/compose.yaml, and the collector of examples/tracing.md, against the files that they name, since no engine is
at hand to bring them up.

    python compose.py BELLWETHER PROMTOOL

Ends with "all right".
"""

import os
import pathlib
import re
import subprocess
import sys
import tomllib

import yaml

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def load(path):
    return yaml.safe_load(path.read_text())


def volumes(service):
    """What is mounted where: container path to path here, of files and directories of the repository."""
    found = {}
    for volume in service.get("volumes", []):
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            path = (EXAMPLES / source).resolve()
            assert path.exists() and ROOT in path.parents, f"{source} is not there"
            found[target] = path
    return found


def the_proxy_can_start(services, bellwether):
    proxy, fleet = services["proxy"], services["fleet"]
    config = volumes(proxy)[proxy["command"][proxy["command"].index("--config") + 1]]
    environment = {**os.environ, "BELLWETHER_ADMIN_TOKEN": "a-token-for-this-test"}
    assert "BELLWETHER_ADMIN_TOKEN" in proxy["environment"]
    done = subprocess.run([bellwether, "check", config], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    settings = tomllib.loads(config.read_text())
    ports = {port.rsplit(":", 1)[1] for port in proxy["ports"]}
    assert ports == {settings["listen"].rsplit(":", 1)[1], settings["admin"]["listen"].rsplit(":", 1)[1]}, ports
    # The emulator's nodes are on consecutive ports from the first.
    command = fleet["command"]
    first = int(command[command.index("--port") + 1])
    nodes = [node["url"] for node in settings["node"]]
    assert nodes == [f"http://fleet:{first + at}" for at in range(8)], nodes


def the_image_has_what_is_run(services):
    text = (EXAMPLES / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), f"{name} is copied and not there"
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    build = f"--bin {manifest['bin'][0]['name']} --example emulator"
    assert build in text and (EXAMPLES / "emulator.rs").exists()
    assert f"rust:{manifest['package']['rust-version']}" in text, "the image builds with the oldest compiler that is promised"
    for name in ("proxy", "fleet"):
        service = services[name]
        assert service["build"]["dockerfile"] == "examples/Dockerfile" and (EXAMPLES / service["build"]["context"]).resolve() == ROOT
        assert service["command"][0] in ("bellwether", "emulator") and service["command"][0] in build


def prometheus_finds_proxy_and_rules(services, promtool):
    service = services["prometheus"]
    mounted = volumes(service)
    config = mounted["/etc/prometheus/prometheus.yml"]
    settings = load(config)
    assert settings["rule_files"] == [target for target in mounted if "/rules/" in target], settings["rule_files"]
    [job] = settings["scrape_configs"]
    assert job["job_name"] == load(EXAMPLES / "prometheus/prometheus.yml")["scrape_configs"][0]["job_name"]
    [target] = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    admin = tomllib.loads(volumes(services["proxy"])["/etc/bellwether/bellwether.toml"].read_text())["admin"]
    assert name in services and name in admin["hosts"] and admin["listen"].endswith(f":{port}") and admin["metrics_public"]
    # Its rules are elsewhere in the container.
    done = subprocess.run([promtool, "check", "config", "--syntax-only", config], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def grafana_finds_prometheus_and_dashboards(services):
    mounted = volumes(services["grafana"])
    provisioning = mounted["/etc/grafana/provisioning"]
    [source] = load(provisioning / "datasources/prometheus.yml")["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert host in services and services[host]["ports"][0].endswith(f":{port}"), source["url"]
    [provider] = load(provisioning / "dashboards/bellwether.yml")["providers"]
    shown = {path.name for target, path in mounted.items() if pathlib.PurePosixPath(target).parent == pathlib.PurePosixPath(provider["options"]["path"])}
    assert shown == {path.name for path in (EXAMPLES / "grafana").glob("*.json")}, shown


def nothing_is_open_or_unpinned(compose):
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), f"{name} is open to the network"
        tag = service["image"].rsplit(":", 1)[1]
        assert tag == "local" or re.fullmatch(r"v?\d+\.\d+\.\d+", tag), f"{name} has no exact version"
        for other in service.get("depends_on", []):
            assert other in compose["services"], f"{name} waits for {other}"
    named = {volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])}
    assert {name for name in named if not name.startswith(".")} == set(compose["volumes"])


def the_collector_listens_where_the_text_says():
    config = load(EXAMPLES / "otel-collector.yaml")
    [(name, pipeline)] = config["service"]["pipelines"].items()
    assert name == "traces", name
    for kind, used in pipeline.items():
        assert set(used) == set(config[kind]), f"{kind}: {used}"
    listens = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    text = (EXAMPLES / "tracing.md").read_text()
    assert f'endpoint = "http://{listens}"' in text and listens.split(":")[0] == "127.0.0.1"
    exporter = config["exporters"]["otlphttp"]
    assert exporter["endpoint"].startswith("https://") and exporter["headers"]["api-key"] == "${env:NEW_RELIC_LICENSE_KEY}"
    assert "NEW_RELIC_LICENSE_KEY" in text and "(otel-collector.yaml)" in text


def main(bellwether, promtool):
    compose = load(EXAMPLES / "compose.yaml")
    services = compose["services"]
    the_proxy_can_start(services, bellwether)
    the_image_has_what_is_run(services)
    prometheus_finds_proxy_and_rules(services, promtool)
    grafana_finds_prometheus_and_dashboards(services)
    nothing_is_open_or_unpinned(compose)
    the_collector_listens_where_the_text_says()
    print("all right", flush=True)


main(*sys.argv[1:])
