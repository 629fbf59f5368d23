"""An origin with a page, two versions of a bundle, and a script that says which dictionary its client has.

Prints its port. `origin.py FOLDER` writes both versions into the folder, so that their hashes can be made.
"""

import http.server
import json
import pathlib
import sys

FUNCTIONS = 2_000
HERE = pathlib.Path(__file__).parent


def bundle(version):
    """Returns a version of the bundle: most of it is the same in each."""
    factors = [f"function f{n}(a){{return a*{n * 7_919 + (version if n == 777 else 0)}}}\n" for n in range(FUNCTIONS)]
    calls = "+".join(f"f{n}(1)" for n in range(FUNCTIONS))
    return "".join(factors) + f"var version={version};function sum(){{return {calls}}}\n"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.split("?")[0]
        control = "max-age=600"
        if path == "/":
            kind, body = "text/html", (HERE / "page.html").read_text()
        elif path in ("/app/1.js", "/app/2.js"):
            kind, body = "text/javascript", bundle(int(path[5]))
        elif path == "/app/echo/3.js":
            control = "no-store"
            kind, body = "text/javascript", f"var named={json.dumps(self.headers.get('available-dictionary'))};"
        else:
            kind, body, control = "text/plain", "", "no-store"
        body = body.encode()
        self.send_response(200)
        for name, value in [("content-type", kind), ("content-length", len(body)), ("cache-control", control)]:
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


folder = pathlib.Path(sys.argv[1])
for number in (1, 2):
    (folder / f"{number}.js").write_text(bundle(number))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
(folder / "port").write_text(str(server.server_address[1]))
server.serve_forever()
