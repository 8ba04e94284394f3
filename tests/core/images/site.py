"""A gateway with its CDN, a real object store, and the way between them without journal and task."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.images.download import open_fetcher
from airflow_provider_aisa.core.images.transfer import Lanes, Moved, store_images
from airflow_provider_aisa.core.layout import Target
from airflow_provider_aisa.core.s3.bucket import Bucket
from tests.support import make_pacer, sandbox_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.core.gateway.response import GenerationResponse
    from airflow_provider_aisa.sandbox import Sandbox

SIZE = "1920x1920"


@dataclass
class Site:
    """Everything that a test needs to move images, and to look at what became of them."""

    gateway: Sandbox
    client: S3Client
    name: str
    folder: Path
    metadata: Mapping[str, str] = field(
        default_factory=lambda: {"dag-id": "shop", "task-id": "draw", "run-id": "monday"}
    )

    @property
    def bucket(self) -> Bucket:
        return Bucket(self.client, self.name)

    def buy(self, n: int = 1) -> GenerationResponse:
        """Pay for images and return the response with their links."""
        with AisaClient(sandbox_settings(self.gateway), pacer=make_pacer()) as client:
            return client.generate(ImageRequest.parse(prompt="a red panda", n=n, size=SIZE))

    def store(self, response: GenerationResponse, **options: Any) -> Moved:
        """Move a response's images and return what became of them."""
        return asyncio.run(self.astore(response, **options))

    async def astore(
        self,
        response: GenerationResponse,
        *,
        key: str = "a/{index}.{ext}",
        asked: int | None = None,
        claim_id: str = "claim-1",
        paid_before: float | None = None,
        bucket: Bucket | None = None,
        lanes: Lanes | None = None,
        max_retries: int = 0,
    ) -> Moved:
        settings = sandbox_settings(self.gateway, max_retries=max_retries)
        with open_fetcher(settings) as fetcher:
            return await store_images(
                response,
                target=Target.parse(key, self.name),
                metadata=self.metadata,
                asked=len(response.images) if asked is None else asked,
                claim_id=claim_id,
                paid_before=paid_before,
                fetcher=fetcher,
                bucket=bucket or self.bucket,
                folder=self.folder,
                lanes=lanes or Lanes(),
            )

    def objects(self) -> dict[str, bytes]:
        """Return what is in the bucket."""
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {
            one["Key"]: self.client.get_object(Bucket=self.name, Key=one["Key"])["Body"].read()
            for one in found
        }

    @property
    def downloads(self) -> int:
        """How often the CDN was asked."""
        return len(self.gateway.cdn_requests)
