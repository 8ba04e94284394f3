"""One gateway, one store and one Airflow for all tests of this folder: starting them takes half a minute."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL
from airflow_provider_aisa.sandbox import Sandbox
from tests.airflow.support import BUCKET, CONFIG, DAGS, EXAMPLE_BUCKET, EXAMPLES, TIMEOUT, Airflow
from tests.docs.blocks import all_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.seaweedfs import SeaweedFS


@pytest.fixture(scope="session")
def gateway() -> Iterator[Sandbox]:
    """Run a gateway whose images take a moment: a trigger that ends at once can outrun its own deferral."""
    with Sandbox(latency=3, api_key=f"sk-aisa-{secrets.token_hex(16)}") as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def airflow(
    gateway: Sandbox, s3_store: SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Airflow]:
    """Run Airflow, with connections that only its environment holds."""
    for bucket in (BUCKET, EXAMPLE_BUCKET):
        s3_store.create_bucket(bucket)
    aisa = {**json.loads(gateway.connection), "extra": {"timeout": TIMEOUT}}
    by_another_name = {**aisa, "host": gateway.base_url.replace("127.0.0.1", "localhost")}
    connections = {
        "aisa_default": json.dumps(aisa),
        "aisa_limited": json.dumps(by_another_name),
        "aisa_quick": json.dumps({**aisa, "extra": {"max_concurrency": 50, "max_retries": 0}}),
        "aisa_marketing": json.dumps({**aisa, "extra": {"prices": {DEFAULT_MODEL: 0.035}}}),
        "aisa_catalogue": json.dumps(aisa),
        "aisa_impatient": json.dumps({**aisa, "extra": {"timeout": 5, "max_retries": 0}}),
        "aws_default": s3_store.airflow_connection(bucket=BUCKET),
    }
    home, dags = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("dags")
    for file in (*DAGS.glob("*.py"), *EXAMPLES.glob("*.py")):
        shutil.copy(file, dags)
    for block in all_blocks("python", "dag"):
        dag_id, text = block.as_dag_file()
        (dags / f"{dag_id}.py").write_text(text)
    with Airflow(home, dags, connections=connections, config=CONFIG) as running:
        running.wait_until_ready()
        running.wait_until_parsed()
        running.command("pools", "set", "aisa", "20", "requests in flight at AIsa", "--include-deferred")
        yield running
        processes = running.processes()
    assert len(processes) > 5
    assert [each for each in processes if Path(f"/proc/{each.pid}").exists()] == []  # nothing is left


@pytest.fixture
def prompt(request: pytest.FixtureRequest) -> str:
    """Return a prompt that no other test uses: what was billed for a test is counted by it."""
    return f"{request.node.name} {secrets.token_hex(4)}"
