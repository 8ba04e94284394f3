"""What `generate` and batches still call; it goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.images.download import Fetcher
from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.core.images.transfer import Lanes, store_images
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.s3 import Bucket
from airflow_provider_aisa.exceptions import AisaError, ImageLinkExpired, ImageUnavailable


class Transfer:
    """Moves the images of one job's response into its bucket."""

    def __init__(
        self, job: Job, *, fetcher: Fetcher, bucket: Bucket, folder: Path, lanes: Lanes | None = None
    ) -> None:
        self._job = job
        self._fetcher = fetcher
        self._bucket = bucket
        self._folder = folder
        self._lanes = lanes or Lanes()
        #: What is in the bucket, as in the task's result: also when others of the response failed.
        self.stored: tuple[Mapping[str, Any], ...] = ()

    async def store(
        self, response: GenerationResponse, *, claim_id: str, is_resumed: bool
    ) -> tuple[Mapping[str, Any], ...]:
        """Store all images; raise what went wrong with the first one that is not stored."""
        moved = await store_images(
            response,
            target=self._job.target,
            metadata=self._job.metadata(),
            asked=self._job.request.n,
            claim_id=claim_id,
            paid_before=86_400.0 if is_resumed else None,
            fetcher=self._fetcher,
            bucket=self._bucket,
            folder=self._folder,
            lanes=self._lanes,
        )
        self.stored = tuple(one.to_dict() for one in moved.stored)
        for image, error in moved.failed:
            raise self._explained(image, response, moved.stored, error)
        return self.stored

    def _explained(
        self,
        image: GeneratedImage,
        response: GenerationResponse,
        stored: tuple[StoredImage, ...],
        error: AisaError,
    ) -> AisaError:
        """Say which image an error is about, what was paid, and what is safe."""
        if isinstance(error, ImageLinkExpired):
            step = (
                "It is not bought again by itself: to pay anew, clear the task with on_existing='regenerate'."
            )
        elif isinstance(error, ImageUnavailable) and error.retryable:
            step = "A retry fetches it again and pays nothing, as long as its link works."
        else:
            step = "A retry goes on from here and pays nothing."
        uris = ", ".join(one.uri for one in stored) or "none"
        return type(error)(
            f"image {image.index} of request {response.request_id}: {error}. {response.billed} image(s) are "
            f"paid for ({self._job.cost_text(response.billed)}); stored: {uris}. {step}",
            status=error.status,
            code=error.code,
            request_id=response.request_id,
            retryable=error.retryable,
        )
