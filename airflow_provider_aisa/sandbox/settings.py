"""A sandbox's behaviour is one frozen value, replaced as a whole: no request ever sees half of a change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from airflow_provider_aisa.sandbox.fields import known_fields, require_int, require_seconds, require_text

ImageFormat = Literal["png", "jpeg", "webp"]
DEFAULT_API_KEY = "sk-aisa-sandbox"
MAX_IMAGE_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class SandboxSettings:
    """How the sandbox behaves. Durations are in seconds. Raises ValueError for a value that makes no sense.

    `image_bytes` pads each image to that many bytes, 1 GiB at most. `requests_per_minute` and `max_in_flight`
    None are off; `rate_window` shortens the minute of `requests_per_minute`, for tests that cannot wait.
    Gemini has a limit of its own, `gemini_requests_per_minute`, whatever the key's is.
    """

    api_key: str = DEFAULT_API_KEY
    latency: float = 0.0
    image_format: ImageFormat = "png"
    image_bytes: int | None = None
    link_ttl: float = 86_400
    requests_per_minute: int | None = None
    max_in_flight: int | None = None
    rate_window: float = 60.0
    gemini_requests_per_minute: int | None = 30

    def __post_init__(self) -> None:
        require_text("api_key", self.api_key)
        require_seconds("latency", self.latency)
        require_seconds("link_ttl", self.link_ttl)
        require_seconds("rate_window", self.rate_window)
        require_int("image_bytes", self.image_bytes, minimum=1, maximum=MAX_IMAGE_BYTES, optional=True)
        require_int("requests_per_minute", self.requests_per_minute, minimum=1, optional=True)
        require_int("gemini_requests_per_minute", self.gemini_requests_per_minute, minimum=1, optional=True)
        require_int("max_in_flight", self.max_in_flight, minimum=1, optional=True)
        if self.image_format not in get_args(ImageFormat):
            words = ", ".join(get_args(ImageFormat))
            raise ValueError(f"image_format must be one of {words}, got {self.image_format!r}")

    def changed(self, values: object) -> SandboxSettings:
        """Return these settings with some of them replaced, as in a JSON object. Raises ValueError."""
        fields = known_fields(type(self), values)
        return replace(self, **fields)
