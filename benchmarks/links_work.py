"""The way of images alone, in a process of its own: `python -m benchmarks.links_work WAY LINK COUNT PREFIX`.

`ours` or `plain` moves the image at a link to S3, so often, four at a time: without gateway and journal, so
that what an image's bytes cost stands alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.work import BUCKET, S3Requests, load, measure

if TYPE_CHECKING:
    from collections.abc import Callable

_AT_ONCE: Final = 4


def prepare_ours(link: str, count: int, prefix: str) -> Callable[[], object]:
    """Return what a task does with the links of a response."""
    from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
    from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
    from airflow_provider_aisa.core.images.download import open_fetcher
    from airflow_provider_aisa.core.images.transfer import Lanes, store_images
    from airflow_provider_aisa.core.layout import Target
    from airflow_provider_aisa.core.s3.bucket import Bucket
    from airflow_provider_aisa.hooks.s3 import open_s3

    load("airflow.providers.amazon.aws.hooks.s3")
    images = tuple(GeneratedImage(index, url=link) for index in range(count))
    response = GenerationResponse("model", None, images, {}, "request")
    settings = ConnectionSettings("aisa_default", "sk-no-key", base_url=os.environ["OPENAI_BASE_URL"])

    async def move(folder: Path) -> None:
        client, _ = open_s3("aws_default")
        with open_fetcher(settings) as fetcher:
            moved = await store_images(
                response,
                target=Target.parse(f"{prefix}/{{index}}.png", BUCKET),
                metadata={},
                asked=count,
                claim_id="claim",
                paid_before=None,
                fetcher=fetcher,
                bucket=Bucket(client, BUCKET),
                folder=folder,
                lanes=Lanes(transfers=_AT_ONCE, downloads=_AT_ONCE),
            )
        if moved.failed:
            raise RuntimeError(f"{len(moved.failed)} images failed, the first one so: {moved.failed[0][1]}")

    def run() -> None:
        with tempfile.TemporaryDirectory(prefix="aisa-benchmarks-") as folder:
            asyncio.run(move(Path(folder)))

    return run


def prepare_plain(link: str, count: int, prefix: str) -> Callable[[], object]:
    """Return the same as a person writes it: each image whole in memory."""
    import boto3
    import httpx

    def run() -> None:
        s3 = boto3.client("s3")
        with httpx.Client() as http, ThreadPoolExecutor(_AT_ONCE) as pool:

            def move(index: int) -> None:
                image = http.get(link).raise_for_status()
                s3.put_object(
                    Bucket=BUCKET,
                    Key=f"{prefix}/{index}.png",
                    Body=image.content,
                    ContentType=image.headers["content-type"],
                )

            list(pool.map(move, range(count)))

    return run


def main(way: str, link: str, count: str, prefix: str) -> None:
    """Do the work once and print what it took."""
    prepare = prepare_ours if way == "ours" else prepare_plain
    print(json.dumps(measure(prepare(link, int(count), prefix), S3Requests())))


if __name__ == "__main__":
    main(*sys.argv[1:])
