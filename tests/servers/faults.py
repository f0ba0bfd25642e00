"""A proxy in front of a real S3 server that breaks some of the requests, as networks and overloaded servers do."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

BUSY = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 94\r\nConnection: close\r\n\r\n"
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>\n"
)
KINDS = ("busy", "reset", "cut")


class FaultyProxy:
    """Forwards requests to a server, and breaks a share of them.

    Attributes:
        share: Of the requests that are broken, 0 to 1.
        kinds: How: `busy` answers 503, `reset` closes the connection, `cut` sends half of the answer, `stall` waits
            `seconds` first, and `flip` changes a bit of an object that is read.
        seconds: See `stall`.
        done: How many requests were broken, by kind, and how many were `forwarded`.
    """

    def __init__(self, upstream: str) -> None:
        address = urlsplit(upstream)
        self._host, self._port = address.hostname, address.port
        self.share, self.kinds, self.seconds = 0.0, KINDS, 0.0
        self.done: Counter[str] = Counter()
        self._random = random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # One request for each connection: every answer closes it.
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            if headers.get(b"expect") == b"100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(int(headers.get(b"content-length", 0)))
            fault = self._random.choice(self.kinds) if self._random.random() < self.share else "forwarded"
            self.done[fault] += 1
            if fault == "busy":
                writer.write(BUSY)
            elif fault != "reset":
                if fault == "stall":
                    await asyncio.sleep(self.seconds)
                answer = await self._answer(head, body)
                start = answer.index(b"\r\n\r\n") + 4
                if fault == "cut":
                    answer = answer[: start + (len(answer) - start) // 2]
                if fault == "flip" and head.startswith(b"GET") and b"list-type" not in head and len(answer) > start:
                    place = self._random.randrange(start, len(answer))
                    answer = answer[:place] + bytes([answer[place] ^ 1]) + answer[place + 1 :]
                writer.write(answer)
            if fault not in ("reset", "cut"):
                await writer.drain()
        writer.close()

    async def _answer(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        first, rest = head.split(b"\r\n", 1)
        kept = b"\r\n".join(
            line for line in rest.split(b"\r\n") if not line.lower().startswith((b"connection:", b"expect:"))
        )
        writer.write(first + b"\r\nConnection: close\r\n" + kept + body)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer


@contextmanager
def faulty(upstream: str) -> Iterator[FaultyProxy]:
    """Start a proxy, and stop it at the end of the block."""
    proxy = FaultyProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.stop()
