"""Calls OpenAI-compatible servers through the proxy with the openai package, httpx and websockets.

    python openai_client.py routed BASE TINY NARROW   TINY and NARROW are the nodes, called directly to open gates
    python openai_client.py merged BASE               two nodes without configured models, with "tiny" and "narrow"
    python openai_client.py down BASE                 no node lives

A wrong answer is an assertion, something that never comes a timeout: both end the script with a traceback.
"""

import asyncio
import faulthandler
import json
import sys
import time
from unittest import mock

import httpx
import openai
import websockets.sync.client

PATIENCE_S = 60.0
PROMPT = [{"role": "user", "content": "one two three four five"}]
TEXT = PROMPT[0]["content"]


def completions(client):
    done = client.chat.completions.create(model="tiny", messages=PROMPT)
    assert done.choices[0].message.content == TEXT, done
    assert done.usage.completion_tokens == 5 and done._request_id, done
    mine = {"X-Request-Id": "made-by-the-client"}
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=PROMPT, extra_headers=mine)
    assert raw.headers["x-request-id"] == "made-by-the-client", raw.headers
    assert raw.headers["server"] == "uvicorn" and "bellwether" in raw.headers["via"], raw.headers
    assert raw.parse().choices[0].message.content == TEXT
    stream = client.chat.completions.create(
        model="tiny", messages=PROMPT, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT, chunks
    assert chunks[-1].usage.total_tokens == 10, chunks[-1]


def embeddings(client):
    # The client asks for base64 by itself; asked for numbers, the app's answer is large enough to come compressed.
    one = client.embeddings.create(model="tiny", input="four")
    assert one.data[0].embedding[:3] == [4.0, -0.5, 0.25] and len(one.data[0].embedding) == 512, one
    raw = client.embeddings.with_raw_response.create(model="tiny", input=["a", "bb"], encoding_format="float")
    assert raw.headers["content-encoding"] == "gzip", raw.headers
    assert [e.embedding[0] for e in raw.parse().data] == [1.0, 2.0]


def errors(client):
    try:
        client.chat.completions.create(model="gpt-9", messages=PROMPT)
        raise AssertionError("an unknown model was served")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found" and error.type == "invalid_request_error", error.body
        assert "gpt-9" in error.message and "tiny" in error.message and "narrow" in error.message, error.message
        assert error.request_id, error.response.headers
    try:
        client.chat.completions.create(model="tiny", messages=PROMPT, temperature=-1)
        raise AssertionError("a negative temperature was taken")
    except openai.BadRequestError as error:
        assert error.code == "app_says_no" and "negative" in error.message, error.body


def events_one_by_one(client, node):
    """No event exists before its predecessor has been read: kept back for a moment, it would never come."""
    seen = []
    for chunk in client.chat.completions.create(model="tiny", messages=PROMPT, stream=True, extra_body={"gate": "sync"}):
        seen.append(chunk.choices[0].delta.content)
        httpx.post(f"{node}/gate/sync").raise_for_status()
    assert seen == ["one", " two", " three", " four", " five", None], seen


def raw_events_one_by_one(base, node):
    body = {"model": "tiny", "messages": PROMPT, "stream": True, "gate": "raw"}
    events = []
    with httpx.stream("POST", f"{base}/v1/chat/completions", json=body, timeout=PATIENCE_S) as response:
        assert response.headers["content-type"].startswith("text/event-stream"), response.headers
        assert "content-length" not in response.headers and "content-encoding" not in response.headers
        for line in response.iter_lines():
            if line:
                events.append(line)
                httpx.post(f"{node}/gate/raw").raise_for_status()
    assert events[-1] == "data: [DONE]" and len(events) == 7, events
    assert json.loads(events[0].removeprefix("data: "))["choices"][0]["delta"]["content"] == "one"


def a_reader_that_leaves(client, node):
    stream = client.chat.completions.create(model="tiny", messages=PROMPT, stream=True, extra_body={"gate": "left"})
    assert next(iter(stream)).choices[0].delta.content == "one"
    stream.close()
    # Answered only after the app's own generator was cancelled.
    httpx.get(f"{node}/gate/left/left", timeout=PATIENCE_S).raise_for_status()


def full(base, client, node):
    """"narrow" takes one request at a time: a second one is refused, and works once the client has waited."""
    body = {"model": "narrow", "messages": PROMPT, "stream": True, "gate": "full"}
    with httpx.stream("POST", f"{base}/v1/chat/completions", json=body, timeout=PATIENCE_S) as first:
        events = first.iter_lines()
        assert "one" in next(events)
        try:
            client.chat.completions.create(model="narrow", messages=PROMPT)
            raise AssertionError("a second request found room")
        except openai.InternalServerError as error:
            assert error.status_code == 503 and error.code == "all_full", error.body
            asked_to_wait = float(error.response.headers["retry-after"])
        waits = []

        def wait(seconds):
            waits.append(seconds)
            for _ in range(6):
                httpx.post(f"{node}/gate/full").raise_for_status()
            assert [line for line in events if line][-1] == "data: [DONE]"

        with mock.patch.object(time, "sleep", wait):
            done = client.with_options(max_retries=1).chat.completions.create(model="narrow", messages=PROMPT)
        assert done.choices[0].message.content == TEXT
        assert waits == [asked_to_wait], (waits, asked_to_wait)


async def many_at_once(base, node):
    """Sixteen streams, each of which advances only while all the others wait, and plain requests between them."""
    client = openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
    async with client, httpx.AsyncClient(timeout=PATIENCE_S) as direct:

        async def begin(gate):
            create = client.chat.completions.create
            return await create(model="tiny", messages=PROMPT, stream=True, extra_body={"gate": gate})

        gates = [f"many-{i}" for i in range(16)]
        streams = await asyncio.gather(*(begin(gate) for gate in gates))
        readers = [aiter(stream) for stream in streams]
        for word in ["one", " two", " three", " four", " five", None]:
            chunks = await asyncio.gather(*(anext(reader) for reader in readers))
            assert [chunk.choices[0].delta.content for chunk in chunks] == [word] * 16
            plain = await client.chat.completions.create(model="tiny", messages=PROMPT)
            assert plain.choices[0].message.content == TEXT
            await asyncio.gather(*(direct.post(f"{node}/gate/{gate}") for gate in gates))
        for reader in readers:
            assert [chunk async for chunk in reader] == []


def upgraded(base):
    with websockets.sync.client.connect(f"{base.replace('http', 'ws')}/ws", proxy=None, open_timeout=PATIENCE_S) as ws:
        for text in ["first", "ß" * 10_000]:
            ws.send(text)
            assert ws.recv(timeout=PATIENCE_S) == text.upper()


def connect(base):
    return openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)


def routed(base, tiny, narrow):
    with connect(base) as client:
        listed = {model.id: model.owned_by for model in client.models.list()}
        assert listed == {"tiny": "bellwether", "narrow": "bellwether"}, listed
        completions(client)
        embeddings(client)
        errors(client)
        events_one_by_one(client, tiny)
        raw_events_one_by_one(base, tiny)
        a_reader_that_leaves(client, tiny)
        full(base, client, narrow)
    asyncio.run(many_at_once(base, tiny))
    upgraded(base)


def merged(base):
    with connect(base) as client:
        listed = {model.id: model.owned_by for model in client.models.list()}
        assert listed == {"tiny": "tests", "narrow": "tests"}, listed


def down(base):
    with connect(base) as client:
        try:
            client.chat.completions.create(model="tiny", messages=PROMPT)
            raise AssertionError("nobody was there to answer")
        except openai.InternalServerError as error:
            assert error.status_code == 503 and error.code == "no_healthy_node", error.body
            assert float(error.response.headers["retry-after"]) >= 1, error.response.headers


if __name__ == "__main__":
    faulthandler.dump_traceback_later(2 * PATIENCE_S, exit=True)
    {"routed": routed, "merged": merged, "down": down}[sys.argv[1]](*sys.argv[2:])
    print("all right", flush=True)
