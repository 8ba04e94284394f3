"""A batch goes on where it stopped: what is paid for is never paid for again, item by item."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from airflow_provider_aisa import chunk_requests
from airflow_provider_aisa.exceptions import (
    AisaError,
    GatewayFailed,
    ItemsFailed,
    KeyRefused,
    OverBudget,
    QuotaExceeded,
    StorageFailed,
)
from airflow_provider_aisa.sandbox import Fault

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox.faults import FaultKind
    from tests.operators.conftest import Desk


def foxes(count: int) -> list[dict[str, Any]]:
    return [{"id": f"fox-{number:03}", "prompt": f"fox number {number:03}"} for number in range(count)]


def statuses(desk: Desk) -> Counter[str]:
    return Counter(line["status"] for line in desk.manifest())


def test_a_retry_of_a_finished_batch_returns_the_same_and_pays_nothing(desk: Desk) -> None:
    first = desk.run_batch(foxes(5))
    lines = desk.manifest()

    again = desk.run_batch(foxes(5), tries=2)

    assert again == {**first, "reused": 5}
    assert desk.manifest() == [{**line, "reused": True} for line in lines]
    assert len(desk.gateway.requests) == 5
    assert len(desk.gateway.cdn_requests) == 5


def test_finding_out_what_is_done_costs_two_listings_and_one_small_read_per_item(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 70
    desk.run_batch(foxes(count))
    operations: Counter[str] = Counter()
    call: Any = vars(BaseClient)["_make_api_call"]

    def counted(client: Any, operation: str, arguments: dict[str, Any]) -> Any:
        operations[operation] += 1
        return call(client, operation, arguments)

    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", counted)
        result = desk.run_batch(foxes(count), tries=2)

    assert result["reused"] == count
    assert (operations["ListObjectsV2"], operations["GetObject"]) == (2, count)
    assert operations.total() - count < 6
    assert desk.gateway.billed == count


def test_everything_but_the_entries_may_be_deleted(desk: Desk) -> None:
    first = desk.run_batch(foxes(5))
    for key in desk.all_keys():
        if "/manifest-" in key or key.endswith("batch.json"):
            desk.s3.delete_object(Bucket=desk.bucket, Key=key)

    assert desk.run_batch(foxes(5), tries=2) == {**first, "reused": 5}
    assert len(desk.manifest()) == 5
    assert desk.gateway.billed == 5


def test_a_retry_pays_for_the_items_that_failed_and_for_no_others(desk: Desk) -> None:
    desk.connect(max_retries=0)
    desk.gateway.inject(Fault("bad_gateway", prompt="002"), Fault("content_refused", prompt="004"))
    with pytest.raises(ItemsFailed, match=r"2 items failed \(") as caught:
        desk.run_batch(foxes(6))
    assert caught.value.retryable
    assert statuses(desk) == {"stored": 4, "failed": 2}

    result = desk.run_batch(foxes(6), tries=2)

    assert (result["stored"], result["reused"], desk.gateway.billed) == (6, 4, 6)
    assert statuses(desk) == {"stored": 6}


def test_a_longer_file_pays_for_the_new_lines_only(desk: Desk) -> None:
    desk.run_batch(desk.upload("requests.jsonl", foxes(3)))

    result = desk.run_batch(desk.upload("requests.jsonl", reversed(foxes(5))), tries=2)

    assert (result["stored"], result["reused"], desk.gateway.billed) == (5, 3, 5)


def test_a_changed_prompt_under_the_same_id_is_another_purchase(desk: Desk) -> None:
    desk.run_batch(foxes(2))
    desk.run_batch([foxes(2)[0], {"id": "fox-001", "prompt": "an owl"}], tries=2)

    assert desk.gateway.billed == 3


def test_paid_images_that_could_not_be_fetched_are_fetched_by_the_retry(desk: Desk) -> None:
    desk.connect(max_retries=0)
    desk.gateway.inject(Fault("missing_image", prompt="001"), Fault("cdn_server_error", prompt="003"))
    with pytest.raises(ItemsFailed, match="ImageUnavailable 1"):
        desk.run_batch(foxes(4))
    failed = desk.manifest()[3]
    assert (failed["status"], failed["cost_usd"], failed["images"]) == ("failed", 0.04, [])
    assert failed["usage"]["generated_images"] == 1

    result = desk.run_batch(foxes(4), tries=2)

    assert (result["stored"], result["reused"], desk.gateway.billed) == (4, 4, 4)


@pytest.mark.parametrize(("on_existing", "billed"), [("reuse", 3), ("regenerate", 6), ("fail", 3)], ids=str)
def test_a_clear_does_with_each_finished_item_what_on_existing_says(
    desk: Desk, on_existing: str, billed: int
) -> None:
    desk.run_batch(foxes(3))
    before = [line["images"] for line in desk.manifest()]
    clear: dict[str, Any] = {"clears": 1, "on_existing": on_existing}

    if on_existing == "fail":
        with pytest.raises(ItemsFailed, match="AlreadyGenerated 3") as caught:
            desk.run_batch(foxes(3), tries=2, **clear)
        assert not caught.value.retryable
    else:
        result = desk.run_batch(foxes(3), tries=2, **clear)
        assert result["reused"] == (3 if on_existing == "reuse" else 0)
        after = [line["images"] for line in desk.manifest()]
        assert (after == before) is (on_existing == "reuse")
        assert desk.run_batch(foxes(3), tries=3, **clear)["reused"] == 3  # A retry is no second Clear.
    assert desk.gateway.billed == billed
    assert len(desk.keys()) == 3


def test_another_run_is_another_purchase_and_another_manifest(desk: Desk) -> None:
    first = desk.run_batch(foxes(2), run_id="monday")
    second = desk.run_batch(foxes(2), run_id="tuesday")

    assert desk.gateway.billed == 4
    assert first["manifest_uri"] != second["manifest_uri"]
    assert len(desk.keys()) == 4


def test_a_cut_at_other_lines_pays_again_without_a_key(desk: Desk) -> None:
    """An item belongs to its task instance, and that has a map_index."""
    for run_id, size in (("run", 2), ("run", 3)):
        for map_index, chunk in enumerate(chunk_requests(foxes(6), size=size)):
            desk.run_batch(chunk, run_id=run_id, map_index=map_index)

    # Items 0 and 1 stay in chunk 0, and item 3 in chunk 1; the others change places.
    assert desk.gateway.billed == 6 + 3


def test_with_a_key_an_item_is_paid_once_wherever_the_cut_puts_it(desk: Desk) -> None:
    for run_id, size in (("monday", 2), ("monday", 3), ("tuesday", 6)):
        results = [
            desk.run_batch(chunk, run_id=run_id, map_index=map_index, idempotency_key="catalogue")
            for map_index, chunk in enumerate(chunk_requests(foxes(6), size=size))
        ]

    assert desk.gateway.billed == 6
    assert [result["reused"] for result in results] == [6]
    assert [line["id"] for line in desk.manifest(results[0]["manifest_uri"])] == [
        item["id"] for item in foxes(6)
    ]
    images = desk.keys()
    assert images == [f"seedream/catalogue/{item['id']}/0.png" for item in foxes(6)]


def test_instances_that_share_a_key_have_a_manifest_each(desk: Desk) -> None:
    uris = {
        desk.run_batch(chunk, map_index=map_index, idempotency_key="catalogue")["manifest_uri"]
        for map_index, chunk in enumerate(chunk_requests(foxes(4), size=2))
    }

    assert len(uris) == 2
    assert sorted(line["id"] for uri in uris for line in desk.manifest(uri)) == [
        item["id"] for item in foxes(4)
    ]


def test_a_changed_prompt_under_the_same_key_and_id_fails_that_item_alone(desk: Desk) -> None:
    desk.run_batch(foxes(2), idempotency_key="catalogue")

    with pytest.raises(ItemsFailed, match=r"InvalidRequest 1\).*: 'fox-001'"):
        desk.run_batch(
            [foxes(2)[0], {"id": "fox-001", "prompt": "an owl"}], run_id="next", idempotency_key="catalogue"
        )

    assert desk.gateway.billed == 2


@pytest.mark.parametrize(("kind", "error"), [("quota_exceeded", QuotaExceeded), ("unauthorized", KeyRefused)])
def test_a_key_that_may_not_go_on_stops_the_batch_and_everything_paid_is_stored(
    desk: Desk, kind: FaultKind, error: type[AisaError]
) -> None:
    desk.gateway.inject(Fault(kind, after=12, times=1_000))

    with pytest.raises(
        error, match=r"The batch stopped, .* 12 of 40 items are stored, 0 failed, 28"
    ) as caught:
        desk.run_batch(foxes(40), on_item_failure="keep")

    assert not caught.value.retryable
    assert len(desk.gateway.requests) <= 12 + 5  # What was in flight already: max_concurrency is 5.
    assert desk.gateway.billed == len(desk.keys()) == 12
    assert statuses(desk) == {"stored": 12, "not_sent": 28}
    desk.gateway.reset()  # It also forgets what was billed.
    assert desk.run_batch(foxes(40), tries=2)["reused"] == 12
    assert desk.gateway.billed == 28


def test_a_gateway_that_is_down_stops_the_batch_after_ten_failures_in_a_row(desk: Desk) -> None:
    desk.connect(max_retries=0, max_concurrency=1)
    desk.gateway.inject(Fault("unavailable", times=1_000))

    with pytest.raises(GatewayFailed, match=r"The batch stopped, .* 10 failed, 40 were not sent") as caught:
        desk.run_batch(foxes(50), on_item_failure="keep")

    assert caught.value.retryable
    assert len(desk.gateway.requests) == 10


@pytest.mark.parametrize(("max_failures", "requests"), [(0, 1), (2, 3), (0.1, 3), (None, 20)])
def test_more_failures_than_are_allowed_stop_the_batch(
    desk: Desk, max_failures: float | None, requests: int
) -> None:
    desk.connect(max_concurrency=1)
    desk.gateway.inject(Fault("content_refused", times=1_000))

    with pytest.raises(ItemsFailed) as caught:
        desk.run_batch(foxes(20), max_failures=max_failures)

    assert ("more than max_failures allows" in str(caught.value)) is (requests < 20)
    assert not caught.value.retryable
    assert len(desk.gateway.requests) == requests
    assert statuses(desk)["failed"] == requests
    assert desk.gateway.billed == 0


def test_stopping_lets_finish_what_is_paid_for(desk: Desk) -> None:
    desk.gateway.latency = 0.3
    desk.gateway.inject(Fault("content_refused", prompt="000"))

    with pytest.raises(ItemsFailed, match="1 item failed"):
        desk.run_batch(foxes(30), max_failures=0)

    assert desk.gateway.billed == len(desk.keys()) == statuses(desk)["stored"]
    assert statuses(desk)["not_sent"] > 0


def test_a_lost_response_is_admitted_and_bought_anew_by_the_retry(desk: Desk) -> None:
    desk.gateway.inject(Fault("cut_after_billing", prompt="001"))
    with pytest.raises(ItemsFailed, match="OutcomeUnknown 1") as caught:
        desk.run_batch(foxes(3))
    assert caught.value.retryable

    result = desk.run_batch(foxes(3), tries=2)

    assert (result["unknown_outcomes"], desk.gateway.billed) == (1, 4)
    assert [line["unknown_outcomes"] for line in desk.manifest()] == [0, 1, 0]


def test_at_most_once_never_buys_a_lost_response_anew(desk: Desk) -> None:
    desk.gateway.inject(Fault("cut_after_billing", prompt="001"))
    for tries in (1, 2):
        with pytest.raises(ItemsFailed, match="OutcomeUnknown 1") as caught:
            desk.run_batch(foxes(3), tries=tries, delivery="at-most-once")
        assert not caught.value.retryable

    assert desk.gateway.billed == 3


def test_a_budget_counts_what_earlier_attempts_have_paid(desk: Desk) -> None:
    """Four images fit; the second attempt may pay for the two that the first did not get."""
    desk.gateway.inject(Fault("content_refused", times=2))
    with pytest.raises(ItemsFailed):
        desk.run_batch(foxes(4), max_cost_usd=0.16)

    assert desk.run_batch(foxes(4), tries=2, max_cost_usd="0.16")["cost_usd"] == 0.16
    assert desk.gateway.billed == 4


def test_a_budget_counts_what_may_have_been_billed_without_a_response(desk: Desk) -> None:
    desk.gateway.inject(Fault("cut_after_billing", prompt="001"))
    with pytest.raises(ItemsFailed):
        desk.run_batch(foxes(4), max_cost_usd=0.16)

    with pytest.raises(OverBudget, match=r"it is 0\.16 USD.* cost 0\.160 USD, or may") as caught:
        desk.run_batch(foxes(4), tries=2, max_cost_usd=0.16)
    assert not caught.value.retryable
    assert desk.gateway.billed == 4

    assert desk.run_batch(foxes(4), tries=3, max_cost_usd=0.2)["stored"] == 4
    assert desk.gateway.billed == 5


def test_a_budget_holds_while_responses_get_lost(desk: Desk) -> None:
    """Each of these is sent again at once; the third would break the budget."""
    desk.gateway.inject(Fault("gateway_timeout", billed=True, times=1_000))

    with pytest.raises(OverBudget, match="The batch stopped"):
        desk.run_batch(foxes(2), max_cost_usd=0.16)

    assert desk.gateway.billed <= 4


def test_a_rate_limit_slows_the_batch_and_fails_nothing(desk: Desk) -> None:
    desk.connect(max_retries=0)
    desk.gateway.inject(Fault("rate_limited", times=4, retry_after=0.2))

    result = desk.run_batch(foxes(8))

    assert (result["stored"], result["failed"], desk.gateway.billed) == (8, 0, 8)
    assert len(desk.gateway.requests) == 12


def test_no_more_requests_are_in_flight_than_operator_and_connection_allow(desk: Desk) -> None:
    desk.connect(max_concurrency=4)
    desk.gateway.latency = 0.05
    desk.run_batch(foxes(12), max_concurrency=2)
    assert desk.gateway.max_in_flight_seen == 2

    desk.run_batch(foxes(12), run_id="next", max_concurrency=100)
    assert desk.gateway.max_in_flight_seen == 4


def test_a_store_that_fails_stops_the_batch_and_the_retry_pays_for_the_rest(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    call: Any = vars(BaseClient)["_make_api_call"]

    def out_of_space(client: Any, operation: str, arguments: dict[str, Any]) -> Any:
        if desk.gateway.billed >= 4 and operation == "PutObject" and arguments["Key"].endswith(".png"):
            answer: Any = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            raise ClientError(answer, operation)
        return call(client, operation, arguments)

    desk.connect(max_concurrency=1)
    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", out_of_space)
        with pytest.raises(StorageFailed, match="The batch stopped") as caught:
            desk.run_batch(foxes(40))
    assert caught.value.retryable
    assert desk.gateway.billed < 40

    assert desk.run_batch(foxes(40), tries=2)["stored"] == 40
    assert desk.gateway.billed == 40


def test_an_execution_timeout_in_mid_batch_still_records_what_it_pays_for(desk: Desk) -> None:
    class Timeout(BaseException):
        """Stands for AirflowTaskTimeout, which a signal raises wherever the process happens to be."""

    def interrupt(*_: object) -> None:
        raise Timeout

    def send_signal_in_mid_batch() -> None:
        while len(desk.gateway.requests) < 5:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGALRM)

    desk.gateway.latency = 1.0
    before = signal.signal(signal.SIGALRM, interrupt)
    helper = threading.Thread(target=send_signal_in_mid_batch)
    helper.start()
    try:
        with pytest.raises(Timeout):
            desk.run_batch(foxes(10))
    finally:
        helper.join()
        signal.signal(signal.SIGALRM, before)
    assert desk.gateway.billed == 5
    desk.gateway.latency = 0.0

    result = desk.run_batch(foxes(10), tries=2)

    assert (result["stored"], result["reused"], result["unknown_outcomes"]) == (10, 5, 0)
    assert desk.gateway.billed == 10
