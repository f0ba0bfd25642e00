"""The page of `skinlib demo`: a photograph in; its answer, its place among the test images and a heat map out."""

import asyncio
import base64
import hashlib
import html
import io
import json
import os
import socket
from contextlib import suppress
from pathlib import Path

import numpy as np
import uvicorn
from markdown_it import MarkdownIt
from numpy.typing import NDArray
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from skinlib.errors import ConfigError, DataError
from skinlib.evaluation.saliency import heat_maps
from skinlib.serving.classifier import SkinLesionClassifier
from skinlib.serving.served import Served, table
from skinlib.serving.server import MAX_BYTES, Impatient, limited

HOST = "127.0.0.1"
_TEMPLATE = Path(__file__).with_suffix(".html")


def create(served: Served) -> ASGIApp:
    """Return the page of a model as an application, which loads nothing from elsewhere and stores nothing."""
    page, policy = _page(served)

    def show(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})

    async def classify(request: Request) -> Response:
        # Another site could make the browser send images here, and keep the processor busy.
        if request.headers.get("origin") != f"http://{request.headers['host']}":
            return PlainTextResponse("Only this page can send photographs.", 403)
        try:
            answered = await asyncio.to_thread(answer, served.model, await request.body())
        except DataError as error:
            return PlainTextResponse(f"This file cannot be used: {error}.", 400)
        return JSONResponse(answered, headers={"Cache-Control": "no-store"})

    routes = [Route("/", show), Route("/answer", classify, methods=["POST"])]
    # DNS rebinding: the name of another site can resolve to this machine. The browser then sends that name.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return limited(Starlette(routes=routes, middleware=[hosts]))


def answer(model: SkinLesionClassifier, file: bytes) -> dict[str, object]:
    """Classify an image file.

    Returns:
        What the model answers, by column; and as data URLs of PNG files, `image`, the pixels that it saw, and `heat`,
        opaque where the evidence for the decision is strong, which comes from `cells` per side.

    Raises:
        DataError: The file is no usable image.
    """
    pixels = model.pixels(file)
    if isinstance(pixels, str):
        raise DataError(pixels)
    [row] = model.predict(None, table([pixels])).to_dict("records")
    evidence = model.graph.score(pixels[None]).evidence
    [heat] = heat_maps(evidence, np.array([row["malignant"]]), len(pixels))
    grey_and_alpha = (heat[..., None] * [0, 255]).astype(np.uint8)
    images = {"image": _data_url(pixels), "heat": _data_url(grey_and_alpha)}
    return {**row, **images, "cells": evidence.shape[1]}


def listen(port: int) -> socket.socket:
    """Open a port of this machine, which other machines cannot reach; 0 is any free one."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ConfigError(f"Port {port} cannot be used ({reason}); choose another one with --port.") from None


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serve an application until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, http=Impatient, log_level="warning")).run([listening])


def _page(served: Served) -> tuple[str, str]:
    """Return the HTML and its content security policy."""
    facts = {**served.settings, "histograms": served.histograms, "max_bytes": MAX_BYTES}
    template = _TEMPLATE.read_text()
    for mark, text in (
        ("<!-- name -->", html.escape(served.uri)),
        ("<!-- facts -->", json.dumps(facts).replace("<", "\\u003c")),
        ("<!-- card -->", MarkdownIt("commonmark", {"html": False}).enable("table").render(served.model_card)),
    ):
        template = template.replace(mark, text)
    script = template.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return template, policy


def _data_url(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
