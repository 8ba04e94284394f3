"""Faults are a script: each says what happens to the next requests that match it, in the order injected."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Literal

from airflow_provider_aisa.sandbox.contract import CHAT, GENERATE_CONTENT, IMAGES
from airflow_provider_aisa.sandbox.fields import known_fields, require_int, require_seconds, require_text

FaultKind = Literal[
    "rate_limited",
    "upstream_rate_limit",
    "quota_exceeded",
    "content_refused",
    "unauthorized",
    "forbidden",
    "server_error",
    "bad_gateway",
    "unavailable",
    "gateway_timeout",
    "html_error",
    "html_504",
    "html_520",
    "html_524",
    "html_ok",
    "broken_json",
    "gzip_bomb",
    "endless_body",
    "drip_headers",
    "drip_body",
    "hang",
    "cut_before_billing",
    "cut_after_billing",
    "cut_mid_body",
    "fewer_images",
    "more_images",
    "no_images",
    "image_error",
    "b64_json",
    "bad_b64",
    "bad_link",
    "private_link",
    "redirect",
    "expired_link",
    "missing_image",
    "cdn_server_error",
    "cdn_cut",
    "cdn_slow",
    "cdn_drip",
    "cdn_gzip_bomb",
    "cdn_redirect",
    "cdn_redirect_mailto",
    "cdn_redirect_private",
    "truncated_image",
    "html_image",
    "oversized_image",
    "oversized_chunked",
]
Billing = Literal["never", "if asked", "always"]

#: Where a fault strikes: any route that generates images, the model list, or the CDN.
GENERATIONS = "generations"
LISTING = "/v1/models"
CDN = "cdn"


@dataclass(frozen=True)
class Kind:
    """What a fault does. `status` None: no answer arrives. `code`: the answer is a documented error."""

    words: str
    status: int | None = 200
    code: str | None = None
    billing: Billing = "never"
    cdn: bool = False
    shapes_images: bool = False


KINDS: dict[FaultKind, Kind] = {
    "rate_limited": Kind("too many requests for this key", 429, "rate_limit_exceeded"),
    "upstream_rate_limit": Kind("the image provider is limiting AIsa", 429, "upstream_rate_limit"),
    "quota_exceeded": Kind("the spend cap of this key is used up", 429, "quota_exceeded"),
    "content_refused": Kind("the prompt was refused by the content policy", 422, "content_policy_violation"),
    "unauthorized": Kind("this API key was revoked", 401, "revoked_api_key"),
    "forbidden": Kind("this key may not use the model", 403, "model_not_allowed"),
    "server_error": Kind("internal error", 500, "internal_error", "if asked"),
    "bad_gateway": Kind("the image provider cannot be reached", 502, "upstream_unavailable", "if asked"),
    "unavailable": Kind("the gateway is overloaded", 503, "gateway_error", "if asked"),
    "gateway_timeout": Kind("the image provider did not answer in time", 504, "upstream_timeout", "if asked"),
    "html_error": Kind("a proxy answers with an HTML page", 502, billing="if asked"),
    "html_504": Kind("a proxy gives up waiting, with an HTML page", 504, billing="if asked"),
    "html_520": Kind("a proxy does not understand the gateway: HTML", 520, billing="if asked"),
    "html_524": Kind("another proxy gives up waiting, with an HTML page", 524, billing="if asked"),
    "html_ok": Kind("a proxy answers 200 with an HTML page", billing="always"),
    "broken_json": Kind("the JSON of the response stops half-way", billing="always"),
    "gzip_bomb": Kind("a megabyte of gzip that unpacks to a gigabyte of JSON", billing="always"),
    "endless_body": Kind("a response that never ends", None, billing="always"),
    "drip_headers": Kind("a byte of headers each `delay` seconds, for ever", None, billing="always"),
    "drip_body": Kind("a byte of the response each `delay` seconds, for ever", None, billing="always"),
    "hang": Kind("the gateway never answers", None, billing="if asked"),
    "cut_before_billing": Kind("the connection dies before anything was generated", None),
    "cut_after_billing": Kind("the connection dies when the images are ready", None, billing="always"),
    "cut_mid_body": Kind("the connection dies half-way through the response", None, billing="always"),
    "fewer_images": Kind("one image fewer than asked for", billing="always", shapes_images=True),
    "more_images": Kind("100 images more than asked for", billing="always", shapes_images=True),
    "no_images": Kind("a response without images", shapes_images=True),
    "image_error": Kind("an error in place of one image", billing="always", shapes_images=True),
    "b64_json": Kind("base64 in place of links", billing="always", shapes_images=True),
    "bad_b64": Kind("base64 that is none, not even ASCII", billing="always", shapes_images=True),
    "bad_link": Kind("links that end in half a character", billing="always", shapes_images=True),
    "private_link": Kind("links to a private address", billing="always", shapes_images=True),
    "redirect": Kind("a redirect to another origin", 307),
    "expired_link": Kind("Request has expired", 403, "AccessDenied", cdn=True),
    "missing_image": Kind("The specified key does not exist.", 404, "NoSuchKey", cdn=True),
    "cdn_server_error": Kind("We encountered an internal error.", 500, "InternalError", cdn=True),
    "cdn_cut": Kind("the download dies half-way", cdn=True),
    "cdn_slow": Kind("the download takes `delay` seconds", cdn=True),
    "cdn_drip": Kind("a byte of the image each `delay` seconds", cdn=True),
    "cdn_gzip_bomb": Kind("a few kilobytes that unpack, twice, to a gigabyte", cdn=True),
    "cdn_redirect": Kind("a redirect to a copy that works", 302, cdn=True),
    "cdn_redirect_mailto": Kind("a redirect to an e-mail address", 302, cdn=True),
    "cdn_redirect_private": Kind("a redirect to a private address", 302, cdn=True),
    "truncated_image": Kind("half a file, with the Content-Length of the half", cdn=True),
    "html_image": Kind("an HTML page in place of the image", cdn=True),
    "oversized_image": Kind("an image of 65 MiB", cdn=True),
    "oversized_chunked": Kind("an image of 65 MiB without Content-Length", cdn=True),
}


@dataclass(frozen=True)
class Fault:
    """One misbehaviour of the gateway or the CDN.

    `after` matching requests pass first, then it hits `times` of them. `billed`: the images were generated
    and paid for all the same; a kind that never bills refuses it. `retry_after` (seconds) sets the header of
    that name. `delay` is in seconds: how long `cdn_slow` takes in all, how long a drip waits before each
    byte. `prompt` narrows the fault to requests, and their images, whose prompt contains this text;
    `path` narrows a gateway fault to one route, and `path="/v1/models"` moves it to the model list. Raises
    ValueError when the fields do not fit together.
    """

    kind: FaultKind
    times: int = 1
    retry_after: float | None = None
    billed: bool = False
    after: int = 0
    prompt: str | None = None
    path: str | None = None
    delay: float = 5.0

    def __post_init__(self) -> None:
        if self.kind not in list(KINDS):  # a list: what JSON holds need not be hashable
            raise ValueError(f"unknown fault {self.kind!r}: expected one of {', '.join(KINDS)}")
        require_int("times", self.times, minimum=1)
        require_int("after", self.after, minimum=0)
        require_seconds("retry_after", self.retry_after, optional=True)
        require_seconds("delay", self.delay)
        require_text("prompt", self.prompt, optional=True)
        if self.billed is not True and self.billed is not False:
            raise ValueError(f"billed must be true or false, got {self.billed!r}")
        if self.billed and self.rule.billing == "never":
            raise ValueError(f"{self.kind} is never billed: leave `billed` out")
        self._check_path()

    def _check_path(self) -> None:
        routes = [IMAGES, CHAT, GENERATE_CONTENT]
        allowed = [] if self.rule.cdn else routes if self.rule.shapes_images else [*routes, LISTING]
        if self.path is not None and self.path not in allowed:
            expected = " or ".join(allowed) or "none"
            raise ValueError(f"{self.kind} cannot hit path {self.path!r}: expected {expected}")

    @property
    def rule(self) -> Kind:
        """What this kind of fault does."""
        return KINDS[self.kind]

    @property
    def target(self) -> str:
        """Where it strikes: any route that generates images, the model list, or the CDN."""
        return CDN if self.rule.cdn else LISTING if self.path == LISTING else GENERATIONS

    @property
    def bills(self) -> bool:
        """Whether the images are generated, and paid for, before the fault strikes."""
        return self.billed or self.rule.billing == "always"

    @classmethod
    def from_json(cls, values: object) -> Fault:
        """Parse the fields of a fault. Raises ValueError saying what is wrong and what is possible."""
        fields = known_fields(cls, values)
        if "kind" not in fields:
            raise ValueError(f"kind is missing: expected one of {', '.join(KINDS)}")
        return cls(**fields)

    @classmethod
    def from_text(cls, text: str) -> Fault:
        """Parse the command line's `KIND[:TIMES]`. Raises ValueError."""
        kind, _, times = text.partition(":")
        return cls.from_json({"kind": kind, "times": int(times) if times.isdecimal() else times or 1})


@dataclass
class FaultQueue:
    """The script of faults that are still to come. Safe to use from several threads."""

    _pending: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> None:
        """Put one fault at the end of the script."""
        with self._lock:
            self._pending.append(fault)

    def take(self, target: str, prompt: str = "", *, path: str | None = None) -> Fault | None:
        """Return what happens to this request. The first match decides, even if it lets it pass."""
        with self._lock:
            for position, fault in enumerate(self._pending):
                is_here = fault.path is None or path is None or fault.path == path
                if fault.target == target and is_here and (fault.prompt or "") in prompt:
                    return self._spend(position, fault)
        return None

    def _spend(self, position: int, fault: Fault) -> Fault | None:
        if fault.after:
            self._pending[position] = replace(fault, after=fault.after - 1)
            return None
        if fault.times > 1:
            self._pending[position] = replace(fault, times=fault.times - 1)
        else:
            del self._pending[position]
        return fault

    def pending(self) -> list[Fault]:
        """Return what has not happened yet."""
        with self._lock:
            return list(self._pending)

    def clear(self) -> None:
        """Forget what has not happened yet."""
        with self._lock:
            self._pending.clear()
