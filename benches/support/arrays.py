"""Arrays of inputs for benches/versus-litellm: a model that makes no mistakes, and clients that check every response.

    arrays.py model PORT                  serves /v1/embeddings; GET /count says what it was sent
    arrays.py load URL MODEL_URL ARRAYS CLIENTS SEED
                                          sends arrays, and prints a line of JSON

An input is text or token ids, its embedding four numbers made of its digest; a token is a character or an id. The same
seed makes the same arrays.
"""

import base64
import hashlib
import http.client
import http.server
import json
import random
import struct
import sys
import threading
import time
import urllib.parse

KNOWN = 64


def embedding(item, encoding):
    digest = hashlib.sha256(json.dumps(item).encode()).digest()
    numbers = [byte / 256 for byte in digest[:4]]
    return base64.b64encode(struct.pack("<4f", *numbers)).decode() if encoding == "base64" else numbers


def inputs_of(call):
    given = call["input"]
    return given if isinstance(given, list) and not isinstance(given[0], int) else [given]


class Model(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    lock, calls, items = threading.Lock(), 0, 0

    def do_GET(self):
        self.respond({"calls": Model.calls, "items": Model.items})

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        inputs = inputs_of(call)
        with Model.lock:
            Model.calls += 1
            Model.items += len(inputs)
        encoding, tokens = call.get("encoding_format"), sum(map(len, inputs))
        data = [
            {"object": "embedding", "index": at, "embedding": embedding(item, encoding)}
            for at, item in enumerate(inputs)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self.respond({"object": "list", "data": data, "model": call["model"], "usage": usage})

    def respond(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


def item_of(number, is_tokens):
    return [number] * (1 + number % 9) if is_tokens else "%x%s" % (number, "x" * (1 + number % 9))


def array(rng):
    """Returns the inputs, whether they are a list, and their encoding."""
    is_list, is_tokens, known = rng.random() < 0.8, rng.random() < 0.3, rng.randrange(5)
    inputs = []
    for _ in range(rng.randint(1, 16) if is_list else 1):
        if inputs and rng.random() < 0.2:
            inputs.append(rng.choice(inputs))
        else:
            number = rng.randrange(KNOWN) if rng.randrange(4) < known else rng.randrange(KNOWN, 2**30)
            inputs.append(item_of(number, is_tokens))
    return inputs, is_list, rng.choice([None, None, None, "float", "base64"])


class Report:
    def __init__(self):
        self.arrays = self.inputs = self.not_200 = self.vectors = self.indexes = self.usage = 0
        self.distinct = set()

    def check(self, inputs, encoding, status, body):
        self.arrays += 1
        self.inputs += len(inputs)
        self.distinct.update((json.dumps(item), encoding or "float") for item in inputs)
        if status != 200:
            self.not_200 += 1
            return
        try:
            reply = json.loads(body)
            data, usage = reply["data"], reply.get("usage") or {}
        except (ValueError, KeyError):
            self.vectors += len(inputs)
            return
        for at, item in enumerate(inputs):
            entry = data[at] if at < len(data) and isinstance(data[at], dict) else {}
            self.vectors += entry.get("embedding") != embedding(item, encoding)
            self.indexes += entry.get("index") != at
        self.vectors += max(0, len(data) - len(inputs))
        tokens = sum(map(len, inputs))
        self.usage += usage.get("prompt_tokens") != tokens or usage.get("total_tokens") != tokens


def client(url, count, seed, report):
    rng, at = random.Random(seed), urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    for _ in range(count):
        inputs, is_list, encoding = array(rng)
        call = {"model": "m", "input": inputs if is_list else inputs[0]}
        if encoding:
            call["encoding_format"] = encoding
        try:
            connection.request("POST", at.path, json.dumps(call), {"Content-Type": "application/json"})
            response = connection.getresponse()
            report.check(inputs, encoding, response.status, response.read())
        except (OSError, http.client.HTTPException):
            connection.close()
            report.check(inputs, encoding, 0, b"")


def load(url, model_url, arrays, clients, seed):
    reports = [Report() for _ in range(clients)]
    threads = [
        threading.Thread(target=client, args=(url, arrays // clients, seed * 1000 + at, report))
        for at, report in enumerate(reports)
    ]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begun
    at = urllib.parse.urlsplit(model_url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    connection.request("GET", "/count")
    sent = json.loads(connection.getresponse().read())
    names = ["arrays", "inputs", "not_200", "vectors", "indexes", "usage"]
    print(json.dumps({
        **{name: sum(getattr(report, name) for report in reports) for name in names},
        "distinct": len(set().union(*(report.distinct for report in reports))),
        "items": sent["items"],
        "calls": sent["calls"],
        "seconds": round(seconds, 1),
    }))


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "model":
        Server(("127.0.0.1", int(rest[0])), Model).serve_forever()
    else:
        load(rest[0], rest[1], *map(int, rest[2:]))
