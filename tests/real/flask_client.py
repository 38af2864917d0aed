"""Calls the Flask app through the proxy with httpx.

    python flask_client.py endpoints BASE      every endpoint, then 30 calls in a row: prints how many each node answered
    python flask_client.py once BASE           three POSTs at the same time that must not be repeated: prints "ANSWER NODE" each
    python flask_client.py traffic BASE        requests that may be repeated, until standard input ends: prints what failed

A wrong answer is an assertion, a request that hangs a timeout: both end the script with a traceback.
"""

import collections
import concurrent.futures
import faulthandler
import hashlib
import json
import sys
import threading

import httpx

PATIENCE_S = 60.0
THREADS = 6


def call_all(client):
    """Every endpoint once, with the answers that the app gives without a proxy too."""
    said = {"text": "grüße", "list": [1, 2.5, None, True]}
    answer = client.post("/api/echo", json=said)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert "bellwether" in answer.headers["via"], answer.headers
    assert answer.headers["x-request-id"], answer.headers
    seen = answer.json()
    assert seen["said"] == said and seen["forwarded"] == "127.0.0.1", seen
    assert seen["host"] == client.base_url.netloc.decode(), seen
    assert client.post("/api/sum", json={"numbers": [1, 2, 39]}).json() == {"sum": 42}
    # Larger than what the proxy keeps of a body, once with a length and once in chunks.
    body = bytes(range(256)) * 4096
    expected = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert client.post("/api/digest", content=body).json() == expected
    chunks = (body[at : at + 65536] for at in range(0, len(body), 65536))
    assert client.post("/api/digest", content=chunks).json() == expected
    text = client.post("/api/pieces", json={"count": 500}).text
    assert text == "".join(f"piece {i}\n" for i in range(500)), text[-100:]
    assert client.get("/api/status").json().keys() == {"node"}
    assert client.head("/api/status").content == b""
    put = client.put("/api/status", json={})
    assert (put.status_code, put.content) == (204, b""), put
    # What is wrong is the app's to say, in its own words.
    failed = client.post("/api/fail", json={})
    assert (failed.status_code, failed.json()) == (500, {"error": "as asked"}), failed.text
    unknown = client.post("/api/nope", json={})
    assert (unknown.status_code, unknown.json()["error"]) == (404, "no endpoint nope"), unknown.text
    malformed = client.post("/api/sum", content=b"{", headers={"content-type": "application/json"})
    assert malformed.status_code == 400 and "node" not in malformed.json(), malformed.text
    assert client.delete("/api/sum").status_code == 405


def endpoints(base):
    with httpx.Client(base_url=base, timeout=PATIENCE_S) as client:
        # As often as there are nodes, so that each is asked for some of it.
        for _ in range(3):
            call_all(client)
        nodes = collections.Counter()
        for i in range(30):
            answer = client.post("/api/sum", json={"numbers": [i, 1]})
            assert answer.json() == {"sum": i + 1}, answer.text
            nodes[answer.headers["x-node"]] += 1
    print(json.dumps(nodes), flush=True)


def once(base):
    def call(_):
        answer = httpx.post(f"{base}/once/sum", json={"numbers": [1]}, timeout=PATIENCE_S)
        return f"{answer.status_code} {answer.headers.get('x-node', '-')} {answer.headers.get('proxy-status', '-')}"

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for line in sorted(pool.map(call, range(3))):
            print(line, flush=True)


def traffic(base):
    stop = threading.Event()
    answered = [threading.Event() for _ in range(THREADS)]
    failures = []

    def work(index):
        calls = 0
        with httpx.Client(base_url=base, timeout=PATIENCE_S) as client:
            while not stop.is_set():
                calls += 1
                numbers = [index, calls]
                try:
                    if calls % 3:
                        answer = client.post("/api/sum", json={"numbers": numbers})
                        right = answer.status_code == 200 and answer.json() == {"sum": sum(numbers)}
                    else:
                        answer = client.get("/api/status")
                        right = answer.status_code == 200
                    if not right:
                        failures.append(f"{answer.request.method} {answer.status_code} {answer.text}")
                except Exception as error:
                    failures.append(repr(error))
                answered[index].set()
        return calls

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        working = [pool.submit(work, index) for index in range(THREADS)]
        for event in answered:
            assert event.wait(PATIENCE_S)
        print("running", flush=True)
        sys.stdin.read()
        stop.set()
        calls = [work.result(PATIENCE_S) for work in working]
    print(json.dumps({"calls": sum(calls), "failures": failures[:10]}), flush=True)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(2 * PATIENCE_S, exit=True)
    {"endpoints": endpoints, "once": once, "traffic": traffic}[sys.argv[1]](sys.argv[2])
