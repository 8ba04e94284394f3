"""However often a task runs, it pays once for what it got; the proof is the gateway's bill."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.exceptions import (
    AisaError,
    AlreadyGenerated,
    ContentRefused,
    FewerImages,
    GatewayFailed,
    ImageLinkExpired,
    ImageUnavailable,
    InvalidRequest,
    JournalUnreadable,
    OutcomeUnknown,
    QuotaExceeded,
    RateLimited,
)
from airflow_provider_aisa.sandbox import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_aisa.sandbox import FaultKind
    from tests.operators.conftest import Desk


def test_a_second_try_returns_what_the_first_one_stored(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    first = desk.run(n=2)
    with caplog.at_level(logging.INFO):
        second = desk.run(n=2, tries=2)

    assert second == {**first, "reused": True}
    assert "Nothing is paid" in caplog.text
    assert desk.gateway.billed == 2
    assert len(desk.gateway.cdn_requests) == 2


def test_nothing_is_paid_for_without_a_folder_for_the_images(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="missing"):
        desk.run()
    assert desk.gateway.billed == 0


@pytest.mark.parametrize("kind", ["cdn_server_error", "cdn_cut", "html_image", "truncated_image"])
def test_a_retry_after_a_failed_download_fetches_only_what_is_missing(desk: Desk, kind: FaultKind) -> None:
    desk.connect(max_retries=0)
    desk.gateway.inject(Fault(kind))
    with pytest.raises(ImageUnavailable, match=r"pays nothing, as long as.* stored: s3://"):
        desk.run(n=3)
    fetched = len(desk.gateway.cdn_requests)

    result = desk.run(n=3, tries=2)

    assert desk.gateway.billed == 3
    assert len(desk.gateway.cdn_requests) == fetched + 1
    assert result["reused"]
    assert [image["index"] for image in result["images"]] == [0, 1, 2]
    assert result["cost_usd"] == 0.12


def test_an_expired_link_says_what_was_paid_and_never_buys_again_by_itself(desk: Desk) -> None:
    desk.gateway.inject(Fault("expired_link", times=100))
    for tries in (1, 2, 3):
        with pytest.raises(ImageLinkExpired, match=r"Image 0 of request req_.*\(\$0\.040\)") as caught:
            desk.run(tries=tries)
        assert not caught.value.retryable

    assert desk.gateway.billed == 1


def test_a_person_can_buy_an_expired_image_anew(desk: Desk) -> None:
    desk.gateway.inject(Fault("expired_link", times=3))
    for clears in (0, 1):
        with pytest.raises(ImageLinkExpired):
            desk.run(clears=clears)

    result = desk.run(tries=3, clears=2, on_existing="regenerate")

    assert not result["reused"]
    assert desk.gateway.billed == 2


@pytest.mark.parametrize(
    ("on_existing", "billed"), [("reuse", 1), ("regenerate", 2)], ids=["reuse", "regenerate"]
)
def test_a_clear_follows_on_existing_and_its_retry_does_not(
    desk: Desk, on_existing: str, billed: int
) -> None:
    desk.run()
    cleared = desk.run(tries=2, clears=1, on_existing=on_existing)
    again = desk.run(tries=3, clears=1, on_existing=on_existing)

    assert desk.gateway.billed == billed
    assert cleared["reused"] is (on_existing == "reuse")
    assert again == {**cleared, "reused": True}
    assert len(desk.keys()) == 1


def test_a_clear_can_fail_on_what_exists(desk: Desk) -> None:
    result = desk.run()

    with pytest.raises(AlreadyGenerated) as caught:
        desk.run(tries=2, clears=1, on_existing="fail")

    assert result["images"][0]["uri"] in str(caught.value)
    assert result["journal_uri"] in str(caught.value)
    assert desk.gateway.billed == 1


def test_an_authors_key_pays_once_across_runs_and_templates(desk: Desk) -> None:
    first = desk.run(run_id="monday", idempotency_key="sku-1")
    second = desk.run(run_id="tuesday", idempotency_key="sku-1", s3_key="other/{index}.{ext}")
    third = desk.run(run_id="tuesday", idempotency_key="sku-2")

    assert second == {**first, "reused": True}
    assert not third["reused"]
    assert first["images"][0]["key"] == "seedream/sku-1/0.png"
    assert desk.gateway.billed == 2


def test_an_authors_key_does_not_return_the_images_of_another_request(desk: Desk) -> None:
    desk.run(idempotency_key="sku-1", prompt="A red panda")

    with pytest.raises(InvalidRequest, match="'sku-1' belongs to another request: "):
        desk.run(run_id="next", idempotency_key="sku-1", prompt="A blue panda")

    assert desk.gateway.billed == 1


def test_a_changed_prompt_is_another_purchase(desk: Desk) -> None:
    desk.run(prompt="A red panda")
    desk.run(prompt="A blue panda", tries=2)

    assert desk.gateway.billed == 2


def test_another_run_is_another_purchase(desk: Desk) -> None:
    desk.run(run_id="monday")
    desk.run(run_id="tuesday")

    assert desk.gateway.billed == 2
    assert len(desk.keys()) == 2


def assert_nothing_is_owed(desk: Desk) -> None:
    """Assert that the one journal says that its request has ended and cannot have been billed."""
    journal = desk.journal()
    assert (journal["state"], journal["claim"]["ended"], journal["unknown"]) == ("claimed", True, [])
    assert desk.keys() == []


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("content_refused", ContentRefused),
        ("quota_exceeded", QuotaExceeded),
        ("unauthorized", AisaError),
        ("bad_gateway", GatewayFailed),
    ],
)
def test_a_failure_that_cannot_be_billed_counts_nothing_and_holds_nobody_up(
    desk: Desk, kind: FaultKind, error: type[AisaError]
) -> None:
    desk.connect(max_retries=0)
    desk.gateway.inject(Fault(kind))
    with pytest.raises(error) as caught:
        desk.run()
    assert caught.value.unknown_outcomes == 0
    assert_nothing_is_owed(desk)

    result = desk.run(tries=2)

    assert result["unknown_outcomes"] == 0
    assert desk.gateway.billed == 1


def test_a_refused_connection_counts_nothing_and_holds_nobody_up(desk: Desk) -> None:
    connection = {**json.loads(desk.gateway.connection), "host": "http://127.0.0.1:9/v1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_AISA_DEFAULT", json.dumps({**connection, "extra": {"max_retries": 0}}))
        with pytest.raises(GatewayFailed, match="othing was sent"):
            desk.run()
    assert_nothing_is_owed(desk)

    assert desk.run(tries=2)["unknown_outcomes"] == 0


def test_a_request_that_was_refused_may_be_changed_under_its_key(desk: Desk) -> None:
    desk.gateway.inject(Fault("content_refused"))
    with pytest.raises(ContentRefused):
        desk.run(idempotency_key="sku-1", prompt="A red panda")

    assert not desk.run(tries=2, idempotency_key="sku-1", prompt="A blue panda")["reused"]
    assert desk.gateway.billed == 1


def test_a_failed_regeneration_keeps_the_earlier_images(desk: Desk) -> None:
    first = desk.run()
    desk.gateway.inject(Fault("content_refused"))
    with pytest.raises(ContentRefused):
        desk.run(tries=2, clears=1, on_existing="regenerate")

    assert desk.run(tries=3, clears=2) == {**first, "reused": True}


@pytest.mark.parametrize("kind", ["cut_after_billing", "cut_mid_body", "html_ok", "broken_json"])
def test_a_lost_response_is_admitted_and_bought_anew_by_the_next_try(desk: Desk, kind: FaultKind) -> None:
    desk.gateway.inject(Fault(kind))
    with pytest.raises(OutcomeUnknown) as caught:
        desk.run()
    assert caught.value.retryable
    assert desk.gateway.billed == 1

    result = desk.run(tries=2)

    assert result["unknown_outcomes"] == 1
    assert desk.gateway.billed == 2
    assert desk.run(tries=3)["unknown_outcomes"] == 1


@pytest.mark.parametrize("kind", ["cut_after_billing", "html_ok"])
def test_at_most_once_does_not_buy_a_lost_response_anew(desk: Desk, kind: FaultKind) -> None:
    desk.gateway.inject(Fault(kind))
    for tries in (1, 2, 3):
        with pytest.raises(OutcomeUnknown) as caught:
            desk.run(tries=tries, delivery="at-most-once")
        assert not caught.value.retryable

    assert desk.gateway.billed == 1
    assert not desk.run(tries=4, clears=1, delivery="at-most-once", on_existing="regenerate")["reused"]


def test_a_read_timeout_is_not_resent(desk: Desk) -> None:
    desk.connect(timeout=0.5)
    desk.gateway.inject(Fault("hang", billed=True))

    with pytest.raises(OutcomeUnknown, match="ReadTimeout"):
        desk.run()

    assert len(desk.gateway.requests) == 1
    assert desk.journal()["claim"]["ended"]


@pytest.mark.parametrize("is_billed", [True, False])
def test_an_upstream_timeout_is_resent_and_counted(desk: Desk, is_billed: bool) -> None:
    desk.gateway.inject(Fault("gateway_timeout", billed=is_billed))

    result = desk.run()

    assert result["unknown_outcomes"] == 1
    assert desk.gateway.billed == 1 + is_billed


@pytest.mark.parametrize(
    ("kind", "is_billed"),
    [("gateway_timeout", True), ("gateway_timeout", False), ("server_error", False), ("html_error", True)],
)
def test_at_most_once_does_not_resend_after_an_answer_that_may_hide_a_bill(
    desk: Desk, kind: FaultKind, is_billed: bool
) -> None:
    desk.gateway.inject(Fault(kind, billed=is_billed))

    for tries in (1, 2):
        with pytest.raises(OutcomeUnknown, match="may have been") as caught:
            desk.run(tries=tries, delivery="at-most-once")
        assert (caught.value.retryable, caught.value.unknown_outcomes) == (False, 1)

    assert len(desk.gateway.requests) == 1
    assert desk.gateway.billed == is_billed


def test_refusals_of_the_gateway_are_resent_even_at_most_once_and_count_nothing(desk: Desk) -> None:
    desk.gateway.inject(Fault("unavailable"), Fault("bad_gateway"))

    result = desk.run(delivery="at-most-once")

    assert result["unknown_outcomes"] == 0
    assert desk.gateway.billed == 1


@pytest.mark.parametrize("kind", ["server_error", "html_error"])
def test_an_answer_that_may_hide_a_bill_is_resent_and_counted(desk: Desk, kind: FaultKind) -> None:
    desk.gateway.inject(Fault(kind, billed=True), Fault(kind))

    result = desk.run()

    assert result["unknown_outcomes"] == 2
    assert desk.gateway.billed == 2


def test_a_rate_limit_is_waited_out_within_the_try(desk: Desk) -> None:
    desk.gateway.inject(Fault("rate_limited", retry_after=1))

    assert len(desk.run()["images"]) == 1
    assert len(desk.gateway.requests) == 2


def test_a_long_rate_limit_is_left_to_the_task_and_counts_nothing(desk: Desk) -> None:
    desk.gateway.api_key = "sk-aisa-only-for-this-test"  # the pause concerns everyone with the key
    desk.connect()
    desk.gateway.inject(Fault("rate_limited", retry_after=3600))

    with pytest.raises(RateLimited) as caught:
        desk.run()

    assert caught.value.retry_after == 3600
    assert_nothing_is_owed(desk)


def test_a_journal_of_another_program_stops_everything(desk: Desk) -> None:
    uri = desk.run()["journal_uri"]
    desk.s3.put_object(Bucket=desk.bucket, Key=uri.partition(f"{desk.bucket}/")[2], Body=b"{}")

    with pytest.raises(JournalUnreadable):
        desk.run(tries=2)

    assert desk.gateway.billed == 1


def test_a_journal_tells_a_person_what_happened_and_holds_no_link(desk: Desk) -> None:
    desk.gateway.inject(Fault("cut_after_billing"))
    with pytest.raises(OutcomeUnknown):
        desk.run()
    desk.run(tries=2)

    journal = desk.journal()

    assert journal["state"] == "stored"
    assert journal["buyer"]["owner"]["task_id"] == "generate"
    assert journal["request"]["prompt"] == "A red panda"
    words = [
        "about to send",
        "may have been billed",
        "about to send",
        "paid: 1 image(s)",
        "stored 1 image(s)",
    ]
    assert [word in line for word, line in zip(words, journal["history"], strict=True)] == [True] * 5
    assert "http" not in json.dumps(journal)


def test_s3_arguments_for_encryption_apply_to_the_images(desk: Desk) -> None:
    arguments: dict[str, Any] = {"CacheControl": "max-age=60", "Tagging": "team=shop"}
    [image] = desk.run(s3_extra_args=arguments)["images"]

    head = desk.s3.head_object(Bucket=desk.bucket, Key=image["key"])
    tags = desk.s3.get_object_tagging(Bucket=desk.bucket, Key=image["key"])["TagSet"]
    assert head["CacheControl"] == "max-age=60"
    assert tags == [{"Key": "team", "Value": "shop"}]


def test_an_execution_timeout_in_mid_request_still_records_what_it_pays_for(desk: Desk) -> None:
    class Timeout(BaseException):
        """Stands for AirflowTaskTimeout, which a signal raises wherever the process happens to be."""

    def interrupt(*_: object) -> None:
        raise Timeout

    def send_signal_in_mid_request() -> None:
        while not desk.gateway.requests:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGALRM)

    desk.gateway.latency = 1.0
    before = signal.signal(signal.SIGALRM, interrupt)
    helper = threading.Thread(target=send_signal_in_mid_request)
    helper.start()
    try:
        with pytest.raises(Timeout):
            desk.run()
    finally:
        helper.join()
        signal.signal(signal.SIGALRM, before)

    assert desk.journal()["state"] == "paid"
    assert desk.run(tries=2)["reused"]
    assert desk.gateway.billed == 1


def test_a_task_runs_where_an_event_loop_is_running_already(desk: Desk) -> None:
    async def notebook() -> dict[str, Any]:
        return desk.run()

    assert len(asyncio.run(notebook())["images"]) == 1


def test_no_images_without_a_word_about_the_bill_are_not_bought_anew_by_a_retry(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`usage` is missing: nobody can say that nothing was billed."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"created": 1, "data": []})

    with monkeypatch.context() as patch:
        patch.setattr(
            AisaClient, "exchange", lambda *_: answer(httpx.Request("POST", "https://gateway.test"))
        )
        with pytest.raises(FewerImages, match="returned 0 of 1"):
            desk.run()

    with pytest.raises(FewerImages):
        desk.run(tries=2)
    assert desk.gateway.billed == 0
    assert not desk.run(tries=3, clears=1, on_existing="regenerate")["reused"]
