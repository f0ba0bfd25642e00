"""The server of the container image: MLflow's scoring server, with a limit for the size of a request.

`make serving-image` copies this file into the image, next to the model. It imports nothing from skinlib.
"""

from pathlib import Path

import uvicorn
from mlflow.pyfunc import load_model
from mlflow.pyfunc.scoring_server import init
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BYTES = 25_000_000  # per request, as on SageMaker; MLflow and uvicorn have no limit
PORT = 8080  # SageMaker, KServe


def limited(app: ASGIApp) -> ASGIApp:
    """Refuse requests that are too large, or do not say how large they are, before their body is read."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", []))
        if b"transfer-encoding" in headers:
            answer = PlainTextResponse("Send the request with a Content-Length.\n", 411)
        elif int(headers.get(b"content-length", 0)) > MAX_BYTES:
            answer = PlainTextResponse(f"Send at most {MAX_BYTES // 10**6} MB per request.\n", 413)
        else:
            return await app(scope, receive, send)
        await answer(scope, receive, send)

    return checked


def create() -> ASGIApp:
    """Load the model in the folder of this file."""
    return limited(init(load_model(str(Path(__file__).parent))))


# SageMaker starts a container with the argument `serve`, which is ignored.
if __name__ == "__main__":
    uvicorn.run("server:create", factory=True, host="0.0.0.0", port=PORT)  # noqa: S104 (a container is reached so)
