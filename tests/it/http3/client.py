"""A client of HTTP/3 that has nothing in common with the node, for tests/it/http3.rs: by aioquic.

    client.py PORT COMMAND...

Each command is done on one connection to 127.0.0.1, one after the other, and has a line of JSON on standard output:

    get PATH        the whole response: status, length and CRC-32 of its body
    post PATH N     the same, to N bytes, whose end is told by a DATA frame without any
    leave PATH      the response is given up at its first bytes
"""

import asyncio
import json
import ssl
import sys
import zlib

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

H3_REQUEST_CANCELLED = 0x10C
PIECE = 100_000
LIMIT = 120


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.http = H3Connection(self._quic)
        self.streams = {}

    def quic_event_received(self, event):
        if isinstance(event, StreamReset) and event.stream_id in self.streams:
            self.streams[event.stream_id].put_nowait(event)
        if isinstance(event, ConnectionTerminated):
            for stream in self.streams.values():
                stream.put_nowait(event)
        for received in self.http.handle_event(event):
            stream = self.streams.get(getattr(received, "stream_id", None))
            if stream is not None:
                stream.put_nowait(received)

    def request(self, method, path, ends):
        stream = self._quic.get_next_available_stream_id()
        self.streams[stream] = asyncio.Queue()
        head = {":method": method, ":scheme": "https", ":authority": "shop.test", ":path": path}
        self.http.send_headers(stream, [(name.encode(), value.encode()) for name, value in head.items()], ends)
        return stream

    async def response(self, stream):
        """Returns what comes on the stream up to its end, in whichever way that is."""
        said = {"status": None, "length": 0, "crc": 0}
        while True:
            event = await self.streams[stream].get()
            if isinstance(event, StreamReset):
                return said | {"reset": event.error_code}
            if isinstance(event, ConnectionTerminated):
                return said | {"terminated": event.reason_phrase}
            if isinstance(event, HeadersReceived) and said["status"] is None:
                said["status"] = int(dict(event.headers)[b":status"])
            if isinstance(event, DataReceived):
                said["length"] += len(event.data)
                said["crc"] = zlib.crc32(event.data, said["crc"])
            if getattr(event, "stream_ended", False):
                return said | {"whole": True}

    async def get(self, path):
        stream = self.request("GET", path, True)
        self.transmit()
        return await self.response(stream)

    async def post(self, path, length):
        stream = self.request("POST", path, False)
        for first in range(0, int(length), PIECE):
            self.http.send_data(stream, b"x" * min(PIECE, int(length) - first), False)
        self.http.send_data(stream, b"", True)
        self.transmit()
        return await self.response(stream)

    async def leave(self, path):
        stream = self.request("GET", path, True)
        self.transmit()
        while not isinstance(await self.streams[stream].get(), DataReceived):
            pass
        self._quic.stop_stream(stream, H3_REQUEST_CANCELLED)
        self.transmit()
        del self.streams[stream]
        return {"left": True}


async def main(port, commands):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name="localhost")
    configuration.verify_mode = ssl.CERT_NONE
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Client) as client:
        for command in commands:
            name, *arguments = command.split()
            said = await asyncio.wait_for(getattr(client, name)(*arguments), LIMIT)
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
