"""The origin and the clients of `benches/huge`: a body in which each byte says where it is.

    huge.py origin PORT-FILE COUNT-FILE SIZE
    huge.py clients URL SIZE READERS SECONDS PID COUNT-FILE LIMIT-SECONDS GROWTH-MIB
"""

import http.client
import http.server
import pathlib
import random
import struct
import sys
import threading
import time
import urllib.parse

BLOCK = 1 << 20
# Bytes of the largest range that a reader asks for.
RANGE_MAX = 4 << 20
PATIENCE = 60


def block(number):
    """Returns a block of the body: its number, again and again."""
    return struct.pack(">Q", number) * (BLOCK // 8)


def piece(first, end):
    """Returns the bytes of a range, which is within few blocks."""
    blocks = b"".join(block(number) for number in range(first // BLOCK, (end - 1) // BLOCK + 1))
    begins = first // BLOCK * BLOCK
    return memoryview(blocks)[first - begins : end - begins]


def origin(port_file, count_file, size):
    lock, sent = threading.Lock(), [0, 0]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            first, end, status = 0, size, 200
            asked = self.headers.get("range", "")
            if asked.startswith("bytes=") and "," not in asked:
                begin, _, last = asked[6:].partition("-")
                first, end = int(begin), min(int(last) + 1, size) if last else size
                status = 206 if first < end else 416
            self.send_response(status)
            self.send_header("etag", '"huge"')
            self.send_header("cache-control", "max-age=86400")
            if status == 416:
                first, end = 0, 0
                self.send_header("content-range", f"bytes */{size}")
            elif status == 206:
                self.send_header("content-range", f"bytes {first}-{end - 1}/{size}")
            self.send_header("content-length", str(end - first))
            self.end_headers()
            with lock:
                sent[0] += 1
            while first < end:
                until = min(end, (first // BLOCK + 1) * BLOCK)
                try:
                    self.wfile.write(piece(first, until))
                except OSError:
                    self.close_connection = True
                    return
                with lock:
                    sent[1] += until - first
                first = until

    def count():
        while True:
            # Whoever reads it finds all of it.
            written = pathlib.Path(f"{count_file}.new")
            written.write_text(f"{sent[0]} {sent[1]}")
            written.rename(count_file)
            time.sleep(0.2)

    threading.Thread(target=count, daemon=True).start()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    pathlib.Path(port_file).write_text(str(server.server_address[1]))
    server.serve_forever()


class Tally:
    """What the clients have seen, and what the node's process takes."""

    def __init__(self, pid):
        self.lock = threading.Lock()
        self.mismatches = self.broken = self.ranges = self.read = self.arrived = 0
        self.pid, self.first_rss, self.peak_rss = pid, rss(pid), 0
        self.is_over, self.is_whole = threading.Event(), False

    def watch(self):
        while not self.is_over.is_set():
            self.peak_rss = max(self.peak_rss, rss(self.pid))
            time.sleep(0.1)

    def add(self, **counts):
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


def rss(pid):
    """Returns the resident memory of a process in bytes; 0 if it is gone."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:")), 0)


def connect(url):
    parts = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE), parts.path or "/"


def fetch_whole(url, size, tally):
    connection, path = connect(url)
    connection.request("GET", path)
    response = connection.getresponse()
    at = 0
    while data := response.read(min(BLOCK - at % BLOCK, size - at) if at < size else 1):
        if at + len(data) > size or data != piece(at, at + len(data)):
            tally.add(mismatches=1)
        at += len(data)
        tally.arrived = at
    tally.is_whole = at == size and response.status == 200


def read_ranges(url, size, seed, tally):
    """Asks for random ranges: of what has arrived, until all has."""
    rng, (connection, path) = random.Random(seed), connect(url)
    while not tally.is_over.is_set():
        known = size if tally.is_whole else tally.arrived
        if known < BLOCK:
            time.sleep(0.05)
            continue
        if not tally.is_whole:
            # What arrives is to arrive: Python does one thing at a time.
            time.sleep(rng.uniform(0, 4))
        first = rng.randrange(known)
        end = min(size, first + rng.randint(1, RANGE_MAX))
        try:
            connection.request("GET", path, headers={"range": f"bytes={first}-{end - 1}"})
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            connection, _ = connect(url)
            tally.add(broken=1)
            continue
        wanted = f"bytes {first}-{end - 1}/{size}"
        is_right = response.status == 206 and response.getheader("content-range") == wanted and data == piece(first, end)
        tally.add(ranges=1, read=len(data), mismatches=0 if is_right else 1)


def clients(url, size, readers, seconds, pid, count_file, limit):
    tally, begun = Tally(pid), time.monotonic()
    whole = threading.Thread(target=fetch_whole, args=(url, size, tally), daemon=True)
    others = [
        threading.Thread(target=read_ranges, args=(url, size, seed, tally), daemon=True) for seed in range(readers)
    ]
    watcher = threading.Thread(target=tally.watch, daemon=True)
    for thread in [watcher, whole, *others]:
        thread.start()
    whole.join(limit)
    took = time.monotonic() - begun
    time.sleep(seconds if tally.is_whole else 0)
    tally.is_over.set()
    for thread in others:
        thread.join(PATIENCE)
    # The origin writes its counts down five times a second.
    time.sleep(0.5)
    requests, sent = map(int, pathlib.Path(count_file).read_text().split())
    growth = (tally.peak_rss - tally.first_rss) / (1 << 20)
    print(f"whole            {'yes' if tally.is_whole else 'NO'}, {took:.1f} s, {tally.arrived / took / (1 << 20):.0f} MiB/s")
    print(f"ranges           {tally.ranges}, {tally.read / (1 << 20):.0f} MiB")
    print(f"mismatches       {tally.mismatches}")
    print(f"broken off       {tally.broken}")
    print(f"origin           {requests} requests, {sent / size:.4f} of the object's bytes")
    print(f"RSS              {tally.first_rss / (1 << 20):.0f} MiB at first, {growth:.0f} MiB more at most")
    return tally, growth, sent / size


def main():
    kind, *rest = sys.argv[1:]
    if kind == "origin":
        origin(rest[0], rest[1], int(rest[2]))
        return
    url, size, readers, seconds, pid, count_file, limit, growth_max = rest
    tally, growth, share = clients(url, int(size), int(readers), float(seconds), pid, count_file, float(limit))
    is_fine = tally.is_whole and not tally.mismatches and not tally.broken and share < 1.01 and growth < float(growth_max)
    sys.exit(0 if is_fine else 1)


if __name__ == "__main__":
    main()
