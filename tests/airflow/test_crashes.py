"""Whatever dies in the middle of a purchase, the next try goes on from there and knows what was paid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_aisa.sandbox import Fault
from tests.airflow.support import paid, wait_for, wait_for_request

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.sandbox import Sandbox
    from tests.airflow.support import Airflow


def test_worker_killed_while_it_fetches_images_is_retried_without_paying(
    airflow: Airflow, gateway: Sandbox, s3_client: S3Client, prompt: str
) -> None:
    """The response is in the journal before the first download begins."""
    gateway.inject(Fault("cdn_slow", times=2, delay=30, prompt=prompt))
    run = airflow.start_run("sync", prompt=prompt, n=2)
    wait_for(lambda: run.journal_state(s3_client) == "paid", "the journal to say that it is paid", every=0.1)
    run.kill_worker()
    assert run.wait() == "success"
    assert run.task()["try_number"] == 2
    assert run.result()["reused"] is True
    assert [image["index"] for image in run.result()["images"]] == [0, 1]
    assert paid(gateway, prompt) == 2


def test_deferred_task_cancelled_in_mid_request_keeps_what_it_paid_for(
    airflow: Airflow, gateway: Sandbox, s3_client: S3Client, prompt: str
) -> None:
    """The trigger is stopped; its request is not, and is written down. A later run fetches the images."""
    run = airflow.start_run("deferred", prompt=prompt)
    wait_for_request(gateway, prompt)
    run.mark_failed()
    wait_for(lambda: run.journal_state(s3_client) == "paid", "the journal to say that it is paid", every=0.1)
    assert run.task()["state"] == "failed"
    wait_for(
        lambda: "Stopped. Whatever was paid for is recorded in s3://" in run.log(), "the trigger's last words"
    )
    run.clear()
    assert run.wait() == "success"
    assert run.result()["reused"] is True
    assert paid(gateway, prompt) == 1


def test_triggerer_terminated_in_mid_request_loses_nothing(
    airflow: Airflow, gateway: Sandbox, prompt: str
) -> None:
    """A deploy: the request is waited for and recorded, and the next triggerer only fetches the images."""
    run = airflow.start_run("deferred", prompt=prompt, n=2)
    wait_for_request(gateway, prompt)
    airflow.terminate_triggerer()
    airflow.start("triggerer")
    assert run.wait() == "success"
    result = run.result()
    assert (result["reused"], result["unknown_outcomes"]) == (True, 0)
    assert paid(gateway, prompt) == 2


def test_triggerer_killed_in_mid_request_pays_again_at_most_once_and_says_so(
    airflow: Airflow, gateway: Sandbox, prompt: str
) -> None:
    """The response died with its process: the one case in which nobody can know, and it is counted."""
    run = airflow.start_run("deferred", prompt=prompt, n=2)
    wait_for_request(gateway, prompt)
    airflow.kill_triggerer()
    airflow.start("triggerer")
    assert run.wait() == "success"
    result = run.result()
    assert (result["reused"], result["unknown_outcomes"]) == (False, 1)
    assert len(result["images"]) == 2
    assert "1 earlier request(s) for the same images may have been billed" in run.log()
    assert paid(gateway, prompt) == 2 * (1 + result["unknown_outcomes"])
