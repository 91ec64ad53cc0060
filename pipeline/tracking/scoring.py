"""A packaged model over HTTP, within limits: images in base64 in, answers out.

`python -P scoring.py PACKAGE HOST PORT`, in a process of its own; it imports nothing of ours, since the package brings
its own `pipeline`. `POST /invocations` takes JSON as MLflow's server does. However large or hostile a request is, the
memory holds its body, and `MAX_PIXELS` pixels at once.
"""

import asyncio
import base64
import json
import re
import sys
import traceback
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pandas as pd
import uvicorn
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from PIL import Image

MAX_BODY = 64 << 20  # bytes
MAX_IMAGES = 1_000  # of a request
MAX_PIXELS = 89_000_000  # of one image, and of those that are decoded at once; as in `images.decode`
MAX_PIXELS_IN_ALL = 500_000_000  # of a request
MAX_CONNECTIONS = 8
BODY_S = 60  # that sending a request may take
BATCH = 256  # images
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # as in `images.decode`
FORM = 'valid: {"dataframe_split": {"columns": ["image"], "data": [["BASE64"], ...]}}'


class Refused(Exception):
    """status: of HTTP. message: one line."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Server:
    """An ASGI application. One request is answered at a time, in a thread."""

    def __init__(self, model: Any, host: str, port: int):
        self.model = model
        self.names = {f"{name}:{port}" for name in (host, "localhost", "[::1]")}
        self.is_free = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            status, reply = 200, await self._reply(scope, receive)
        except Refused as error:
            status, reply = error.status, {"error_code": "REFUSED", "message": str(error)}
        except Exception:
            traceback.print_exc()
            status, reply = 500, {"error_code": "INTERNAL_ERROR", "message": "failed; mlruns/serve.log has the reason"}
        content = json.dumps(reply).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _reply(self, scope: Any, receive: Any) -> dict[str, Any]:
        given: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").lower())
        hosts, origins = given.get("host", []), [origin.partition("://")[2] for origin in given.get("origin", [])]
        # a page of another site, whose name was made to lead here (DNS rebinding), or which sends a form
        if len(hosts) != 1 or not self.names.issuperset([*hosts, *origins]):
            raise Refused(403, f"foreign Host or Origin; valid: {', '.join(sorted(self.names))}")
        asked = scope["method"], scope["path"]
        if asked in (("GET", "/ping"), ("GET", "/health")):
            return {}
        if asked != ("POST", "/invocations"):
            raise Refused(404, "nothing here; valid: POST /invocations, GET /health")
        try:
            body = await asyncio.wait_for(_body(receive), BODY_S)
        except TimeoutError:
            raise Refused(408, f"the body did not come within {BODY_S} s") from None
        if given.get("content-type", [""])[0].partition(";")[0].strip() != "application/json":
            raise Refused(415, "another content type; valid: Content-Type: application/json")
        async with self.is_free:
            return {"predictions": await asyncio.to_thread(answers, self.model, body)}


async def _body(receive: Any) -> bytearray:
    """Of what is too long the rest is read and thrown away: a client that is still sending would see no answer."""
    body, n, more = bytearray(), 0, True
    while more and n <= 4 * MAX_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the connection was closed")
        part, more = message.get("body", b""), message.get("more_body", False)
        n += len(part)
        body += part if n <= MAX_BODY else b""
    if n > MAX_BODY:
        raise Refused(413, f"the body is larger than {MAX_BODY >> 20} MiB; send fewer images at a time")
    return body


def answers(model: Any, body: bytearray) -> list[dict[str, Any]]:
    """A record for each image. Raises `Refused`, before anything is decoded where sizes and headers say why."""
    texts = _texts(body)
    sizes = [_n_pixels(_content(text, row), row) for row, text in enumerate(texts)]
    if sum(sizes) > MAX_PIXELS_IN_ALL:
        raise Refused(413, f"{sum(sizes):,} pixels; valid: at most {MAX_PIXELS_IN_ALL:,} in one request")
    found: list[dict[str, Any]] = []
    for rows in _batches(sizes):
        try:
            images = pd.DataFrame({"image": [_content(texts[row], row) for row in rows]})
            found += model.predict(images).to_dict("records")
        except MlflowException as error:
            parts = re.split(r"\brow (\d+)", error.message)  # counted from the first of the batch
            parts[1::2] = [f"row {int(row) + rows.start}" for row in parts[1::2]]
            raise Refused(400, "".join(parts)) from None
    return found


def _texts(body: bytearray) -> list[Any]:
    """The images' base64, row by row."""
    # base64 has no commas: more of them are many small values, which take twenty times the memory of their text
    if body.count(b",") > 16 * MAX_IMAGES:
        raise Refused(413, f"too many values; valid: at most {MAX_IMAGES:,} images in one request")
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, f"the body is no JSON; {FORM}") from None
    match data:
        case {"dataframe_split": {"columns": ["image"], "data": [*rows]}}:
            texts = [row[0] if isinstance(row, list) and len(row) == 1 else None for row in rows]
        case {"dataframe_records": [*rows]} | {"instances": [*rows]}:
            texts = [row.get("image") if isinstance(row, dict) else None for row in rows]
        case {"inputs": {"image": [*texts]}}:
            pass
        case _:
            raise Refused(400, f"no column `image` alone (paths are not opened for others); {FORM}")
    if len(texts) > MAX_IMAGES:
        raise Refused(413, f"{len(texts):,} images; valid: at most {MAX_IMAGES:,} in one request")
    return texts


def _content(text: Any, row: int) -> bytes:
    try:
        if content := base64.b64decode("".join(text.split()), validate=True):
            return content
    except (AttributeError, ValueError):
        pass
    raise Refused(400, f"row {row}: `image` is empty or no base64; valid: the bytes of an image file in base64")


def _n_pixels(content: bytes, row: int) -> int:
    """By the file's header; nothing is decoded."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            n = image.width * image.height
    except Image.DecompressionBombError:
        n = MAX_PIXELS + 1
    except Exception:  # parsers raise many kinds
        raise Refused(400, f"row {row}: no image file; valid: {', '.join(FORMATS)}") from None
    if n > MAX_PIXELS:
        raise Refused(413, f"row {row}: the image is too large; valid: at most {MAX_PIXELS:,} pixels")
    return n


def _batches(sizes: list[int]) -> Iterator[range]:
    """Rows that are decoded together."""
    start = n = 0
    for row, size in enumerate(sizes):
        if row > start and (n + size > MAX_PIXELS or row - start == BATCH):
            yield range(start, row)
            start, n = row, 0
        n += size
    if sizes:
        yield range(start, len(sizes))


if __name__ == "__main__":
    package, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    server = Server(pyfunc.load_model(package), host, port)
    uvicorn.run(server, host=host, port=port, http="h11", ws="none", lifespan="off", log_level="warning",
                limit_concurrency=MAX_CONNECTIONS, h11_max_incomplete_event_size=1 << 14, server_header=False,
                timeout_graceful_shutdown=5)  # fmt: skip
