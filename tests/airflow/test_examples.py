"""Every example DAG runs to its end: scheduled, answered and budgeted as its own text says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow.support import EXAMPLE_BUCKET as BUCKET
from tests.airflow.support import EXAMPLES, paid, wait_for

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.sandbox import Sandbox
    from tests.airflow.support import Airflow, Run
    from tools.seaweedfs import SeaweedFS

#: By DAG, what is triggered with it. An asset triggers `publish`; `batch` and `batch_mapped` run elsewhere.
STARTED: dict[str, dict[str, Any]] = {
    "taskflow": {},
    "refresh": {},
    "mapped_prompts": {},
    "draw_banners": {},
    "choose_one": {},
    "budget": {"images": 3},
    "families": {},
    "teams_marketing": {},
    "teams_catalogue": {},
}


@pytest.fixture(scope="module")
def runs(airflow: Airflow) -> dict[str, Run]:
    """Start all examples at once."""
    return {dag_id: airflow.start_run(dag_id, **conf) for dag_id, conf in STARTED.items()}


def stored(client: S3Client, prefix: str) -> list[str]:
    """Return the keys of the images below a prefix."""
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return sorted(entry["Key"] for entry in found if "/_aisa/" not in entry["Key"])


def test_every_example_says_what_it_is(airflow: Airflow) -> None:
    """A DAG's card and its page are blank without a description and a text."""
    files = {path.name for path in EXAMPLES.glob("*.py")}
    found = airflow.api("GET", "/api/v2/dags", params={"tags": ["aisa"], "limit": 100})["dags"]
    examples = [dag for dag in found if dag["relative_fileloc"] in files]
    assert {dag["relative_fileloc"] for dag in examples} == files
    assert [dag["dag_id"] for dag in examples if not dag["description"]] == []
    details = [airflow.api("GET", f"/api/v2/dags/{dag['dag_id']}/details") for dag in examples]
    assert [dag["dag_id"] for dag in details if not dag["doc_md"]] == []


def test_taskflow_draws_what_the_function_returned(
    airflow: Airflow, runs: dict[str, Run], gateway: Sandbox
) -> None:
    run = runs["taskflow"]
    assert run.wait() == "success"
    used = airflow.xcom("taskflow", run.run_id, "use")
    assert used.endswith("/picture/0.png for 0.04 USD")
    assert paid(gateway, "a brass desk lamp on an oak table, winter light") == 1
    fields = run.task("picture")["rendered_fields"]
    assert fields["prompt"] == "a brass desk lamp on an oak table, winter light, product photo"
    assert run.task("picture")["operator_name"] == "@task.seedream"


def test_a_refresh_by_hand_has_no_logical_date_and_pays_once_a_week(
    airflow: Airflow, runs: dict[str, Run], gateway: Sandbox
) -> None:
    first = runs["refresh"]
    assert first.wait() == "success"
    again = airflow.start_run("refresh")
    assert again.wait() == "success"
    assert again.result() == {**first.result(), "reused": True}
    assert paid(gateway, first.task()["rendered_fields"]["prompt"]) == 1


def test_mapped_prompts_are_called_by_their_prompts_and_keep_to_the_pool(
    runs: dict[str, Run], s3_client: S3Client
) -> None:
    run = runs["mapped_prompts"]
    assert run.wait() == "success"
    tasks = [run.task(map_index=index) for index in range(3)]
    assert [task["rendered_map_index"] for task in tasks] == [
        "0: A red panda in a library, ink drawing",
        "1: A grey heron in a library, ink drawing",
        "2: A hedgehog in a library, ink drawing",
    ]
    assert {task["pool"] for task in tasks} == {"aisa"}
    assert stored(s3_client, "animals/") == [f"animals/{index}.png" for index in range(3)]


def test_an_asset_starts_the_dag_that_publishes_and_names_the_images(
    airflow: Airflow, runs: dict[str, Run], s3_client: S3Client
) -> None:
    drawn = runs["draw_banners"]
    assert drawn.wait() == "success"

    def published() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = airflow.api("GET", "/api/v2/dags/publish/dagRuns")["dag_runs"]
        return found

    wait_for(lambda: bool(published()), "the run that the asset triggers")
    [run] = published()
    assert airflow.wait_for_run("publish", run["dag_run_id"], 120) == "success"
    uris = [image["uri"] for image in drawn.result()["images"]]
    assert airflow.xcom("publish", run["dag_run_id"], "publish") == uris
    assert [f"s3://{BUCKET}/{key}" for key in stored(s3_client, f"banners/{drawn.run_id}/")] == uris


def test_a_person_chooses_one_and_the_others_are_deleted(
    airflow: Airflow, runs: dict[str, Run], s3_client: S3Client
) -> None:
    run = runs["choose_one"]
    asked = f"/api/v2/dags/choose_one/dagRuns/{run.run_id}/taskInstances/choose/-1/hitlDetails"
    wait_for(lambda: airflow.has(asked), "the question")
    detail = airflow.api("GET", asked)
    assert detail["options"] == ["Image 1", "Image 2", "Image 3"]
    assert detail["body"].count("](http://127.0.0.1:") == 3
    assert len(stored(s3_client, "logo/")) == 3

    airflow.api("PATCH", asked, json={"chosen_options": ["Image 3"], "params_input": {}})

    assert run.wait() == "success"
    [kept] = stored(s3_client, "logo/")
    assert kept == run.result()["images"][2]["key"]
    found = airflow.api("GET", "/api/v2/assets/events", params={"source_dag_id": "choose_one"})
    [event] = found["asset_events"]
    assert event["extra"]["key"] == kept


def test_a_request_over_its_budget_is_not_sent_and_people_hear_the_next_step(
    airflow: Airflow, runs: dict[str, Run], gateway: Sandbox
) -> None:
    run = runs["budget"]
    assert run.wait() == "failed"
    assert run.task()["try_number"] == 1
    told = airflow.api("GET", "/api/v2/variables/last_alert")["value"]
    assert told.startswith("generate: OverBudget. Raise max_cost_usd, or ask for fewer images")
    assert paid(gateway, "A lighthouse in a gale") == 0


def test_teams_have_their_own_connections_prices_and_defaults(
    airflow: Airflow, runs: dict[str, Run], s3_client: S3Client
) -> None:
    marketing, catalogue = runs["teams_marketing"], runs["teams_catalogue"]
    assert (marketing.wait(), catalogue.wait()) == ("success", "success")
    hero = airflow.xcom("teams_marketing", marketing.run_id, "hero")
    lamp = airflow.xcom("teams_catalogue", catalogue.run_id, "photo_lamp-07")
    assert (hero["cost_usd"], lamp["cost_usd"]) == (0.035, 0.08)  # one of them has a contract
    assert stored(s3_client, "shop/lamp-07") == ["shop/lamp-07-0.png", "shop/lamp-07-1.png"]


def test_links_lead_to_the_images_while_the_task_waits_and_afterwards(
    airflow: Airflow, runs: dict[str, Run], s3_store: SeaweedFS
) -> None:
    run = runs["refresh"]
    assert run.wait() == "success"
    path = f"/api/v2/dags/refresh/dagRuns/{run.run_id}/taskInstances/generate/links"
    links = airflow.api("GET", path)["extra_links"]
    assert links["Images"] == f"{s3_store.endpoint_url}/{BUCKET}/heroes/"
    assert links["Journal"].startswith(f"{s3_store.endpoint_url}/{BUCKET}/_aisa/")
    assert json.dumps(links).count("X-Amz") == 0


def test_families_draws_one_prompt_with_every_model(runs: dict[str, Run], s3_client: S3Client) -> None:
    run = runs["families"]
    assert run.wait() == "success"
    names = [key.rpartition("/")[2] for key in stored(s3_client, "families/")]
    assert names == ["at-night.png", "gemini.png", "seedream.png", "wan-pro.png", "wan.png"]
