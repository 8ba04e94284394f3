"""What a billed request has brought, as values: the same for every route, and fit to be kept as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

_MOST_BILLED: Final = 999_999


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One entry of an answer: a link, base64, or the error that stands in place of an image.

    :param kept: the key of the object in S3 that base64 was put into, before anything else was done with it.
    """

    index: int
    url: str | None = field(default=None, repr=False)  # Signed: whoever reads it can fetch the image.
    b64_json: str | None = field(default=None, repr=False)
    error_code: str | None = None
    error_message: str | None = None
    kept: str | None = None

    @property
    def is_image(self) -> bool:
        """Whether there is something to store."""
        return self.url is not None or self.b64_json is not None or self.kept is not None


@dataclass(frozen=True, slots=True)
class GenerationResponse:
    """A billed response of the gateway.

    ``pydantic.TypeAdapter(GenerationResponse)`` reads and writes it as JSON, links included: without them
    a paid image is lost.

    :param created: UNIX time in seconds, or None.
    :param images: at most as many images as were asked for, and errors in place of others.
    :param usage: the gateway's own figures, verbatim.
    :param delivered: how many images came. It outlives their links, and counts those beyond what was asked
        for, which are not kept.
    """

    model: str
    created: int | None
    images: tuple[GeneratedImage, ...]
    usage: Mapping[str, Any]
    request_id: str | None
    delivered: int = 0

    @property
    def available(self) -> tuple[GeneratedImage, ...]:
        """The entries that are images."""
        return tuple(image for image in self.images if image.is_image)

    @property
    def refused(self) -> tuple[GeneratedImage, ...]:
        """The entries that are errors."""
        return tuple(image for image in self.images if not image.is_image)

    @property
    def billed(self) -> int:
        """Images on the bill: the gateway's figure, or without one, what it delivered."""
        figure = self._figure
        return figure if figure is not None else self.delivered

    @property
    def is_known_unbilled(self) -> bool:
        """Whether there are no images and the gateway itself says that none is on the bill."""
        return not self.delivered and self._figure == 0

    @property
    def _figure(self) -> int | None:
        figure = self.usage.get("generated_images")
        is_figure = isinstance(figure, int) and not isinstance(figure, bool) and 0 <= figure <= _MOST_BILLED
        return figure if is_figure else None

    def without_links(self) -> Self:
        """Return what is kept once every image is stored."""
        return replace(self, images=self.refused)
