"""The server of the container image: MLflow's scoring, with limits for the size, the number and the time of requests.

`make serving-image` copies this file into the image, next to the model. It imports nothing from skinlib.
"""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import load_model
from mlflow.pyfunc.scoring_server import CONTENT_TYPE_JSON, invocations
from mlflow.version import VERSION
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MAX_BYTES = 25_000_000  # per request, as on SageMaker; MLflow and uvicorn have no limit
MAX_WAITING_BYTES = 8 * MAX_BYTES  # of all requests together
MAX_IMAGES = 250  # per request, counted by brackets and commas: 25 MB of little else would take 4 GB when parsed
MAX_PADDED_BYTES = 8 * MAX_BYTES  # MLflow pads all photographs of a request to the length of the longest
SECONDS = 60  # for sending a request, and for answering it
THREADS = 2  # answer requests; each needs up to 1.4 GB for a photograph of 80 million pixels
PORT = 8080  # SageMaker, KServe


class Impatient(H11Protocol):
    """Closes connections on which no request begins within a time; uvicorn waits for the rest of its head forever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(SECONDS, self._close_if_idle, None)

    def _close_if_idle(self, last: RequestResponseCycle | None) -> None:
        if self.cycle is last and (last is None or last.response_complete):
            self.transport.close()
        if not self.transport.is_closing():
            self.loop.call_later(SECONDS, self._close_if_idle, self.cycle)


def limited(app: ASGIApp) -> ASGIApp:
    """Read each request before the application sees it, and refuse those over the limits for size, time and memory."""
    waiting = 0

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal waiting
        if scope["type"] == "lifespan":
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
            return await app(scope, receive, send)
        headers, body = dict(scope.get("headers", [])), bytearray()

        async def read() -> Response | None:
            nonlocal waiting
            if b"transfer-encoding" in headers:
                return PlainTextResponse("Send the request with a Content-Length.\n", 411)
            if int(headers.get(b"content-length", 0)) > MAX_BYTES:
                return PlainTextResponse(f"Send at most {MAX_BYTES // 10**6} MB per request.\n", 413)
            message: Message = {"more_body": True}
            while message.get("more_body"):
                message = await receive()
                chunk = message.get("body", b"")
                body.extend(chunk)
                waiting += len(chunk)
                if waiting > MAX_WAITING_BYTES:
                    return PlainTextResponse("Too many requests are waiting; send it again later.\n", 503)
            return None

        try:
            try:
                refusal = await asyncio.wait_for(read(), SECONDS)
            except TimeoutError:
                refusal = PlainTextResponse(f"Send the request within {SECONDS} seconds.\n", 408)
            messages: list[Message] = [{"type": "http.request", "body": bytes(body)}]

            async def replay() -> Message:
                return messages.pop() if messages else await receive()

            await (refusal or app)(scope, replay, send)
        finally:
            waiting -= len(body)

    return checked


def create() -> ASGIApp:
    """Serve the model in the folder of this file."""
    model = load_model(str(Path(__file__).parent))
    schema = model.metadata.get_input_schema()  # type: ignore[no-untyped-call]

    async def score(request: Request) -> Response:
        body = await request.body()
        if refusal := _refusal(request.headers.get("content-type", ""), body):
            return refusal
        work = asyncio.to_thread(invocations, body, CONTENT_TYPE_JSON, model, schema)
        try:
            found = await asyncio.wait_for(work, SECONDS)
        except TimeoutError:
            return _error("DEADLINE_EXCEEDED", "The server is too busy; send fewer images, or send them later.", 504)
        except MlflowException as error:
            # MLflow puts the whole input before the model's own message.
            return _error(error.error_code, error.message.rpartition("\nError: ")[2], 400)
        return Response(found.response, found.status, media_type=found.mimetype)

    async def healthy(request: Request) -> Response:
        return Response("\n", media_type=CONTENT_TYPE_JSON)

    async def version(request: Request) -> Response:
        return Response(VERSION, media_type=CONTENT_TYPE_JSON)

    routes = [Route("/invocations", score, methods=["POST"]), Route("/ping", healthy), Route("/health", healthy)]
    return limited(Starlette(routes=[*routes, Route("/version", version)]))


def _refusal(content_type: str, body: bytes) -> Response | None:
    """Refuse what is not JSON, and JSON that would take more memory than its size lets expect."""
    if content_type.partition(";")[0].strip().lower() != CONTENT_TYPE_JSON:
        return _error("BAD_REQUEST", f"Send JSON, with the Content-Type {CONTENT_TYPE_JSON}.", 415)
    if sum(body.count(mark) for mark in (b"[", b"{", b",")) > 4 * MAX_IMAGES:
        return _error("BAD_REQUEST", f"Send at most {MAX_IMAGES} images per request.", 413)
    if (body.count(b",") + 1) * max(map(len, body.split(b'"'))) > MAX_PADDED_BYTES:
        return _error("BAD_REQUEST", "Send large photographs in requests of their own.", 413)
    try:
        json.loads(body)
    except (ValueError, RecursionError) as error:
        return _error("BAD_REQUEST", f"The body is not JSON ({error}).", 400)
    return None


def _error(code: str, message: str, status: int) -> Response:
    return JSONResponse({"error_code": code, "message": " ".join(message.split())[:1000]}, status)


def run(app: str, port: int, host: str = "127.0.0.1") -> None:
    """Start the server."""
    uvicorn.run(app, factory=True, host=host, port=port, http=Impatient)


# SageMaker starts a container with the argument `serve`, which is ignored.
if __name__ == "__main__":
    run("server:create", PORT, "0.0.0.0")  # noqa: S104 (a container is reached so)
