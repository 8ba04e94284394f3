"""The page of errors has a section for each, with a message as it really reads.

`UPDATE_DOCS=1 pytest tests/docs/test_errors.py` writes the messages of today into the page.
"""

from __future__ import annotations

import os
import re
import textwrap
from typing import TYPE_CHECKING, Any, Final

import pytest

from airflow_provider_aisa import exceptions
from airflow_provider_aisa.exceptions import AisaError
from airflow_provider_aisa.operators.gemini import GeminiGenerateOperator
from airflow_provider_aisa.sandbox import Fault
from tests.docs.blocks import ROOT
from tests.operators.conftest import context_of, desk

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.operators.conftest import Desk

__all__ = ["desk"]

PAGE = ROOT / "docs" / "errors.md"
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE))
MESSAGE = re.compile(r"(?<=^```\n)(.*?)(?=\n```$)", re.DOTALL | re.MULTILINE)
ERRORS = {
    name: kind
    for name, kind in vars(exceptions).items()
    if isinstance(kind, type) and issubclass(kind, AisaError) and kind is not AisaError
}


def fault(kind: Any, *, retry_after: float | None = None, **arguments: Any) -> Callable[[Desk], object]:
    """Return what runs a task while the gateway, or its CDN, misbehaves."""

    def run(desk: Desk) -> object:
        desk.connect(max_retries=0)
        desk.gateway.inject(Fault(kind, times=9, retry_after=retry_after))
        return desk.run(s3_key=f"s3://{desk.bucket}/pandas/", **arguments)

    return run


def wrong_connection(desk: Desk) -> object:
    desk.connect(timeout="soon")
    return desk.run()


def existing_images(desk: Desk) -> object:
    desk.run(idempotency_key="mug-01", run_id="monday")
    return desk.run(idempotency_key="mug-01", run_id="tuesday", on_existing="fail")


def damaged_journal(desk: Desk) -> object:
    uri = desk.run(idempotency_key="mug-01")["journal_uri"]
    desk.s3.put_object(Bucket=desk.bucket, Key=uri.partition(f"{desk.bucket}/")[2], Body=b"{")
    return desk.run(idempotency_key="mug-01", tries=2)


def deleted_image(desk: Desk) -> object:
    [image] = desk.run(idempotency_key="mug-01")["images"]
    desk.s3.delete_object(Bucket=desk.bucket, Key=image["key"])
    return desk.run(idempotency_key="mug-01", tries=2)


def worded_answer(desk: Desk) -> object:
    desk.gateway.inject(Fault("no_images"))
    return GeminiGenerateOperator(task_id="generate", prompt="A red panda").execute(context_of())


def refused_item(desk: Desk) -> object:
    desk.gateway.inject(Fault("content_refused", prompt="heron"))
    return desk.run_batch([{"id": "panda", "prompt": "A panda"}, {"id": "heron", "prompt": "A heron"}])


SCENES: Final[dict[str, Callable[[Desk], object]]] = {
    "InvalidConnection": wrong_connection,
    "InvalidRequest": lambda desk: desk.run(size="1024x1024"),
    "ModelNotRouted": lambda desk: desk.run(model="wan2.7-image"),
    "ContentRefused": fault("content_refused"),
    "OverBudget": lambda desk: desk.run(n=3, max_cost_usd=0.1),
    "KeyRefused": fault("unauthorized"),
    "QuotaExceeded": fault("quota_exceeded"),
    "RateLimited": fault("rate_limited", retry_after=120),
    "GatewayFailed": fault("unavailable"),
    "OutcomeUnknown": fault("cut_after_billing", delivery="at-most-once"),
    "ImageRefused": worded_answer,
    "FewerImages": fault("fewer_images", n=2),
    "ItemsFailed": refused_item,
    "ImageUnavailable": fault("cdn_server_error"),
    "ImageLinkExpired": fault("expired_link"),
    "ImageUnusable": fault("html_image"),
    "ImagesLost": deleted_image,
    "AlreadyGenerated": existing_images,
    "JournalUnreadable": damaged_journal,
    "StorageFailed": lambda desk: desk.run(s3_bucket="no-such-bucket"),
}


def test_every_error_has_a_section_and_a_scene() -> None:
    assert set(SECTIONS) == set(ERRORS) == set(SCENES)


@pytest.mark.parametrize("name", SCENES)
def test_the_message_that_is_shown_is_the_real_one(name: str, desk: Desk) -> None:
    with pytest.raises(AisaError) as caught:
        SCENES[name](desk)

    real = str(caught.value).replace(desk.bucket, "my-images")
    if os.environ.get("UPDATE_DOCS"):
        write(name, real)
        return
    [shown] = MESSAGE.findall(SECTIONS[name])
    assert type(caught.value) is ERRORS[name]
    assert plain(shown) == plain(real)


def plain(text: str) -> str:
    """Return a message without what differs in each run: ids, ports, hashes, and where lines are broken."""
    return " ".join(re.sub(r"req_\w+|[0-9a-f]{8,}|127\.0\.0\.1:\d+|api\.aisa\.one", "…", text).split())


def write(name: str, message: str) -> None:
    """Put a message into its section, as it would read with the real gateway."""
    message = re.sub(r"req_sandbox_\w+", "req_4f2c91d0", re.sub(r"127\.0\.0\.1:\d+", "api.aisa.one", message))
    lines = "\n".join(textwrap.wrap(message, 100, break_long_words=False, break_on_hyphens=False))
    before, heading, after = PAGE.read_text().partition(f"\n### {name}\n")
    assert heading, f"{PAGE.name} has no section {name}: write one, with an empty block"
    PAGE.write_text(before + heading + MESSAGE.sub(lambda _: lines, after, count=1))


@pytest.mark.parametrize("name", ERRORS)
def test_whether_it_is_tried_again_is_what_the_class_says(name: str) -> None:
    [word] = re.findall(r"\*\*Tried again:\*\* (\w+)", SECTIONS[name])
    assert word in {"yes", "no"} or name in {"OutcomeUnknown", "ItemsFailed"}
    if word in {"yes", "no"}:
        assert (word == "yes") is ERRORS[name].retryable
