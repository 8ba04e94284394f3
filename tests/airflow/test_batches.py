"""Batches in Airflow: mapped over chunks, and as the examples show them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.airflow.support import EXAMPLE_BUCKET, paid

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.sandbox import Sandbox
    from tests.airflow.support import Airflow, Run


def manifest(client: S3Client, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of a result's manifest, after a look at each image that it names."""
    bucket, _, key = result["manifest_uri"].removeprefix("s3://").partition("/")
    body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    lines = [json.loads(line) for line in body.splitlines()]
    for line in lines:
        for image in line["images"]:
            found = client.head_object(Bucket=image["bucket"], Key=image["key"])
            assert found["Metadata"]["sha256"] == image["sha256"]
    return lines


def test_mapped_chunks_pay_once_for_each_item_and_have_a_manifest_each(
    airflow: Airflow, gateway: Sandbox, s3_client: S3Client, prompt: str
) -> None:
    """What the upstream task returned is not rendered; a person's Clear finds everything done."""
    run = airflow.start_run("batches", prompt=prompt)
    assert run.wait() == "success"
    check_chunks(run, gateway, s3_client, prompt, reused=False)

    run.clear()
    assert run.wait() == "success"
    assert run.task(map_index=1)["try_number"] == 2
    check_chunks(run, gateway, s3_client, prompt, reused=True)


def check_chunks(run: Run, gateway: Sandbox, client: S3Client, prompt: str, *, reused: bool) -> None:
    results = [run.result(map_index) for map_index in range(2)]
    lines = [manifest(client, result) for result in results]
    assert [[line["id"] for line in chunk] for chunk in lines] == [
        ["sku-0", "sku-1", "sku-2"],
        ["sku-3", "sku-4"],
    ]
    assert {line["status"] for chunk in lines for line in chunk} == {"stored"}
    assert [result["reused"] for result in results] == ([3, 2] if reused else [0, 0])
    assert [result["cost_usd"] for result in results] == [0.12, 0.08]
    assert all(len(json.dumps(result)) < 4096 for result in results)
    assert paid(gateway, prompt) == 5
    assert paid(gateway, f"{prompt}, no. 4 {{{{ params }}}}") == 1
    assert gateway.api_key not in run.log()
    assert "X-Signature" not in run.log()


def test_the_example_of_a_batch_draws_what_its_first_task_wrote(
    airflow: Airflow, gateway: Sandbox, s3_client: S3Client
) -> None:
    run = airflow.start_run("batch")
    assert run.wait() == "success"
    lines = manifest(s3_client, run.result())
    assert [line["images"][0]["key"] for line in lines] == [
        f"catalogue/{sku}.png" for sku in ("mug-01", "lamp-07", "vase-12")
    ]
    assert paid(gateway, "an enamel mug on an oak table") == 1
    assert "3 items, 0 of them stored by earlier attempts" in run.log()


def test_the_example_of_a_mapped_batch_draws_a_file_in_the_keys_pool(
    airflow: Airflow, gateway: Sandbox, s3_client: S3Client, prompt: str
) -> None:
    body = "\n".join(json.dumps({"id": number, "prompt": f"{prompt} {number}"}) for number in range(4))
    s3_client.put_object(Bucket=EXAMPLE_BUCKET, Key="catalogue/requests.jsonl", Body=body.encode())
    run = airflow.start_run("batch_mapped")
    assert run.wait() == "success"
    task = run.task(map_index=0)
    assert (task["pool"], task["pool_slots"]) == ("aisa", 5)
    assert [line["id"] for line in manifest(s3_client, run.result(0))] == ["0", "1", "2", "3"]
    assert paid(gateway, prompt) == 4
