"""What the two origins share. A link works on the CDN only if the gateway signed it, until its time is up."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_aisa.sandbox.drawing import Picture
from airflow_provider_aisa.sandbox.faults import FaultQueue
from airflow_provider_aisa.sandbox.images import fitting_format
from airflow_provider_aisa.sandbox.limits import Limiter, ModelLimiter
from airflow_provider_aisa.sandbox.records import Records

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from airflow_provider_aisa.sandbox.contract import ImageOrder
    from airflow_provider_aisa.sandbox.settings import SandboxSettings

MOVED = "/moved"


@dataclass
class Links:
    """The images that exist on the CDN, by path, and their signatures."""

    origin: str
    _pictures: dict[str, Picture] = field(default_factory=dict)
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(16))

    def sign(self, picture: Picture, *, ttl: float) -> str:
        """Publish a picture and return its URL, valid for `ttl` seconds."""
        name = f"{datetime.now(UTC):%Y%m%d}-{picture.request:06d}-{picture.index}.{picture.image_format}"
        path = f"/images/seedream/{name}"
        self._pictures[path] = picture
        expires = f"{time.time() + ttl:.3f}"
        return f"{self.origin}{path}?X-Expires={expires}&X-Signature={self._signature(path, expires)}"

    def find(self, path: str) -> Picture | None:
        """Return the picture at this path, or at its moved copy."""
        return self._pictures.get(path.removeprefix(MOVED))

    def is_signed(self, path: str, expires: str, signature: str) -> bool:
        """Whether the gateway issued exactly this link."""
        expected = self._signature(path.removeprefix(MOVED), expires)
        return hmac.compare_digest(expected.encode(), signature.encode(errors="surrogateescape"))

    def _signature(self, path: str, expires: str) -> str:
        text = f"{path}?{expires}".encode(errors="surrogateescape")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()

    def clear(self) -> None:
        """Delete all images: their links answer 404 from now on."""
        self._pictures.clear()


@dataclass
class SandboxState:
    """One sandbox. SandboxSettings, faults and records are for any thread, the rest for the server's only."""

    settings: SandboxSettings
    links: Links
    drawing: Executor = field(init=False)  # lives as long as the server runs
    faults: FaultQueue = field(default_factory=FaultQueue)
    records: Records = field(default_factory=Records)
    limiter: Limiter = field(default_factory=Limiter)
    gemini_limiter: ModelLimiter = field(default_factory=ModelLimiter)
    requests: int = 0

    def pictures(self, order: ImageOrder, count: int, request: int) -> list[Picture]:
        """Return what `count` images of an order look like."""
        image_format = fitting_format(self.settings.image_format, order.width, order.height)
        return [
            Picture(
                prompt=order.prompt,
                width=order.width,
                height=order.height,
                index=index,
                count=order.n,
                request=request,
                image_format=image_format,
                image_bytes=self.settings.image_bytes,
            )
            for index in range(count)
        ]

    def reset(self) -> None:
        """Forget faults, records, images and used-up limits. Settings stay, requests in flight go on."""
        self.faults.clear()
        self.records.clear()
        self.links.clear()
        self.limiter.clear()
        self.gemini_limiter.clear()
