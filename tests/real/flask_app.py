"""A plain Flask app that answers POST /api/<endpoint>, as people write them: no /health, Flask's own server.

    python flask_app.py NAME PORT [--keep-alive]

It prints "ready" once it listens. A line "hold" on its standard input makes it answer nothing any more: it prints
"held METHOD PATH" for every further request and keeps it. It ends when its standard input does.
"""

import hashlib
import os
import sys
import threading

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server

app = Flask(__name__)
name = sys.argv[1]
holding = threading.Event()
saying = threading.RLock()


def say(line):
    with saying:
        print(line, flush=True)


@app.before_request
def hold():
    if holding.is_set():
        say(f"held {request.method} {request.path}")
        threading.Event().wait()


@app.after_request
def sign(response):
    response.headers["X-Node"] = name
    return response


def echo():
    return jsonify(said=request.get_json(), host=request.host, forwarded=request.headers.get("X-Forwarded-For"))


def add():
    return jsonify(sum=sum(request.get_json()["numbers"]))


def digest():
    body = request.get_data()
    return jsonify(bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def pieces():
    """A body of unknown length: HTTP/1.0 ends it by closing, HTTP/1.1 sends chunks."""
    count = request.get_json()["count"]
    return Response((f"piece {i}\n" for i in range(count)), mimetype="text/plain")


def fail():
    return jsonify(error="as asked"), 500


ENDPOINTS = {"echo": echo, "sum": add, "digest": digest, "pieces": pieces, "fail": fail}


@app.post("/api/<endpoint>")
@app.post("/once/<endpoint>")
def call(endpoint):
    if endpoint not in ENDPOINTS:
        return jsonify(error=f"no endpoint {endpoint}", endpoints=sorted(ENDPOINTS)), 404
    return ENDPOINTS[endpoint]()


@app.get("/api/status")
def status():
    return jsonify(node=name)


@app.put("/api/status")
def put_status():
    return "", 204


@app.errorhandler(HTTPException)
def as_json(error):
    return jsonify(error=error.description), error.code


def obey():
    for line in sys.stdin:
        if line.strip() == "hold":
            # Under the lock, so that no request is said to be held before.
            with saying:
                holding.set()
                say("holding")
    os._exit(0)


class KeepAlive(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"


if __name__ == "__main__":
    handler = KeepAlive if "--keep-alive" in sys.argv else None
    server = make_server("127.0.0.1", int(sys.argv[2]), app, threaded=True, request_handler=handler)
    threading.Thread(target=obey, daemon=True).start()
    say("ready")
    server.serve_forever()
