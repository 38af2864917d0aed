"""An OpenAI-compatible server on FastAPI and uvicorn, with server-sent events that wait for their reader.

    python fastapi_app.py PORT MODEL...

It prints "ready" once it listens, and ends when its standard input does. A completion says the words of the prompt
back. With "gate": ID in the request, every event after the first waits until somebody has called POST /gate/ID once
more: whoever waits for an event before calling would wait for ever behind a proxy that keeps events back.
"""

import array
import asyncio
import base64
import collections
import json
import os
import socket
import sys
import threading
import time

import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse, StreamingResponse

app = FastAPI()
app.add_middleware(GZipMiddleware, minimum_size=1000)
models = sys.argv[2:]


class Gate:
    def __init__(self):
        self.calls = asyncio.Semaphore(0)
        self.left = asyncio.Event()


gates = collections.defaultdict(Gate)


def wrong(status, message, code):
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return JSONResponse(body, status)


@app.get("/v1/models")
def list_models():
    return {"object": "list", "data": [{"id": m, "object": "model", "created": 1, "owned_by": "tests"} for m in models]}


@app.post("/v1/chat/completions")
async def chat(request: Request):
    asked = await request.json()
    if asked["model"] not in models:
        return wrong(404, f"the app has no model {asked['model']}", "model_not_found")
    if asked.get("temperature", 1) < 0:
        return wrong(400, "temperature is negative", "app_says_no")
    words = asked["messages"][-1]["content"].split()
    usage = {"prompt_tokens": len(words), "completion_tokens": len(words), "total_tokens": 2 * len(words)}
    common = {"id": "chatcmpl-1", "created": int(time.time()), "model": asked["model"]}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
    with_usage = (asked.get("stream_options") or {}).get("include_usage", False)
    events = chunks(common, words, usage if with_usage else None)
    return StreamingResponse(gated(events, asked.get("gate")), media_type="text/event-stream")


def chunks(common, words, usage):
    common = {**common, "object": "chat.completion.chunk"}
    for i, word in enumerate(words):
        delta = {"role": "assistant", "content": word} if i == 0 else {"content": " " + word}
        yield json.dumps({**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield json.dumps({**common, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage:
        yield json.dumps({**common, "choices": [], "usage": usage})
    yield "[DONE]"


async def gated(events, name):
    try:
        for i, event in enumerate(events):
            if name is not None and i > 0:
                await gates[name].calls.acquire()
            yield f"data: {event}\n\n"
    except asyncio.CancelledError:
        gates[name].left.set()
        raise


@app.post("/gate/{name}")
async def open_gate(name: str):
    gates[name].calls.release()
    return {}


@app.get("/gate/{name}/left")
async def reader_left(name: str):
    """Answers once the reader of the stream has gone away before its end."""
    await gates[name].left.wait()
    return {}


@app.post("/v1/embeddings")
async def embeddings(request: Request):
    asked = await request.json()
    texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
    data = []
    for i, text in enumerate(texts):
        vector = [float(len(text)), -0.5] + [0.25] * 510
        if asked.get("encoding_format") == "base64":
            vector = base64.b64encode(array.array("f", vector).tobytes()).decode()
        data.append({"object": "embedding", "index": i, "embedding": vector})
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return {"object": "list", "model": asked["model"], "data": data, "usage": usage}


@app.websocket("/ws")
async def talk(ws: WebSocket):
    await ws.accept()
    async for text in ws.iter_text():
        await ws.send_text(text.upper())


def obey():
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    listener.listen(1024)
    threading.Thread(target=obey, daemon=True).start()
    print("ready", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
