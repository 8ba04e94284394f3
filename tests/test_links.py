"""Links to look by: at a store's own address, or in AWS's console."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import boto3
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred, XCom
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

from airflow_provider_aisa import airflow_compat
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.links import ImagesLink, JournalLink, ManifestLink, browser_url
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.triggers.generate import GenerateTrigger
from tests.operators.conftest import SMALL, Desk, context_of, desk
from tests.series import needs_3_0, needs_3_1
from tests.triggers.run_trigger import first_event

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import TaskInstanceKey

__all__ = ["desk"]

KEY = cast("TaskInstanceKey", SimpleNamespace(dag_id="dag", run_id="run", task_id="generate", map_index=-1))
GALLERY = "/dags/dag/runs/run/tasks/generate/plugin/images-task-instance" if AIRFLOW_V_3_1_PLUS else ""


def links(operator: Any) -> dict[str, str]:
    """Return what a task's page shows."""
    return {link.name: link.get_link(operator, ti_key=KEY) for link in operator.operator_extra_links}


def bucket_at(region: str, endpoint: str | None = None) -> Bucket:
    client = boto3.client(
        "s3", region_name=region, endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="s"
    )
    return Bucket(client, "shop")


@pytest.mark.parametrize(
    ("bucket", "key", "url"),
    [
        (
            bucket_at("eu-west-1"),
            "a b/",
            "https://console.aws.amazon.com/s3/buckets/shop?region=eu-west-1&prefix=a%20b/",
        ),
        (
            bucket_at("eu-west-1"),
            "a/_aisa/x.json",
            "https://console.aws.amazon.com/s3/object/shop?region=eu-west-1&prefix=a/_aisa/x.json",
        ),
        (
            bucket_at("cn-north-1"),
            "",
            "https://console.amazonaws.cn/s3/buckets/shop?region=cn-north-1&prefix=",
        ),
        (
            bucket_at("us-gov-west-1"),
            "a/",
            "https://console.amazonaws-us-gov.com/s3/buckets/shop?region=us-gov-west-1&prefix=a/",
        ),
        (bucket_at("x", "http://127.0.0.1:8333"), "a&b/", "http://127.0.0.1:8333/shop/a%26b/"),
        (bucket_at("x", "https://store.example/s3/"), "a/0.png", "https://store.example/s3/shop/a/0.png"),
        (bucket_at("x", "https://u:p@store.example"), "", "https://store.example/shop/"),
    ],
)
def test_a_link_opens_the_console_or_the_stores_own_address(bucket: Bucket, key: str, url: str) -> None:
    assert browser_url(bucket, key) == url


def test_a_task_links_to_its_images_and_its_journal(desk: Desk) -> None:
    operator = SeedreamGenerateOperator(task_id="generate", prompt="An otter")

    result = operator.execute(context_of())

    address = f"{desk.store.endpoint_url}/{desk.bucket}"
    assert links(operator) == {
        "Gallery": GALLERY,
        "Images": f"{address}/seedream/dag/run/generate/",
        "Journal": f"{address}/{result['journal_uri'].partition(f'{desk.bucket}/')[2]}",
    }


def test_a_deferred_task_has_its_links_while_it_waits_and_when_it_is_done(desk: Desk) -> None:
    """Each worker session asks for the links anew, and the second one has no client."""
    operator = SeedreamGenerateOperator(task_id="generate", prompt="An otter", deferrable=True)
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context_of())
    waiting = links(operator)
    event = asyncio.run(first_event(GenerateTrigger(**caught.value.trigger.serialize()[1], earliest_event=0)))

    again = SeedreamGenerateOperator(task_id="generate", prompt="An otter")
    again.execute_complete(context_of(), event, **(caught.value.kwargs or {}))

    assert links(again) == waiting
    assert waiting["Images"]
    assert waiting["Journal"]


def test_a_batch_links_to_its_images_its_manifest_and_its_journals(desk: Desk) -> None:
    operator = SeedreamBatchOperator(task_id="generate", requests=["a"], size=SMALL, s3_key="shop/{id}.{ext}")

    result = operator.execute(context_of())

    address = f"{desk.store.endpoint_url}/{desk.bucket}"
    assert links(operator)["Images"] == f"{address}/shop/"
    assert links(operator)["Manifest"] == result["manifest_uri"].replace(f"s3://{desk.bucket}", address)
    assert links(operator)["Manifest"].startswith(links(operator)["Journal"])


@needs_3_0  # before, the database would be asked
def test_a_task_that_found_no_bucket_has_no_link_but_that_to_the_gallery() -> None:
    """There is its failure, with the fix."""
    found = links(SeedreamGenerateOperator(task_id="generate", prompt="p"))

    assert found == {"Gallery": GALLERY, "Images": "", "Journal": ""}


@needs_3_1
def test_the_link_to_the_gallery_has_the_path_of_airflows_base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://company.example/airflow/")

    found = links(SeedreamGenerateOperator(task_id="generate", prompt="p"))

    assert found["Gallery"] == f"/airflow{GALLERY}"


@needs_3_0  # before, the database would be asked
def test_before_airflow_3_1_there_is_no_gallery_to_link_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_aisa.links.AIRFLOW_V_3_1_PLUS", False)

    assert links(SeedreamGenerateOperator(task_id="generate", prompt="p"))["Gallery"] == ""


def test_before_airflow_3_the_web_server_finds_the_links_in_an_xcom(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the DAG's serialized form only."""
    kept: dict[str, Any] = {}
    monkeypatch.setattr(airflow_compat, "AIRFLOW_V_3_0_PLUS", False)
    monkeypatch.setattr(XCom, "get_value", lambda *, key, ti_key: kept.get(key) if ti_key is KEY else None)
    context = context_of()
    context["ti"].xcom_push = lambda key, value: kept.update({key: value})  # type: ignore[method-assign]

    operator = SeedreamGenerateOperator(task_id="generate", prompt="An otter")
    operator.execute(context)

    web = SimpleNamespace()
    assert ImagesLink().get_link(web, ti_key=KEY) == links(operator)["Images"]  # type: ignore[arg-type]
    assert JournalLink().get_link(web, ti_key=KEY) == links(operator)["Journal"]  # type: ignore[arg-type]
    assert ManifestLink().get_link(web, ti_key=KEY) == ""  # type: ignore[arg-type]
