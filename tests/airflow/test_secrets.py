"""What Airflow keeps of tasks that went wrong holds no secret: database, logs at DEBUG, all its files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_provider_aisa.sandbox import Fault
from tests.airflow.dags.faults import KINDS
from tests.airflow.support import BUCKET, contents

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.sandbox import Sandbox
    from tests.airflow.support import Airflow
    from tools.seaweedfs import SeaweedFS

DEBUG: Final = {"logging.logging_level": "DEBUG"}


def test_what_airflow_keeps_of_every_fault_holds_no_secret_and_no_link(
    airflow: Airflow, gateway: Sandbox, s3_store: SeaweedFS, s3_client: S3Client
) -> None:
    """XComs, rendered fields, triggers, the audit log and what deleted rows leave in the database's file."""
    for kind in KINDS:
        delay = 0.0 if kind == "cdn_drip" else 0.3  # A byte of an image each 0.3 s takes minutes.
        times = 2 if "rate_limit" in kind else 1_000  # A batch waits as long as it is told to come later.
        gateway.inject(Fault(kind, times=times, prompt=f"meets {kind}>", delay=delay))

    log = airflow.home / "logs" / "faults.txt"
    usual, gateway.latency = gateway.latency, 0.0  # The command runs one task after the other.
    printed = airflow.command("dags", "test", "faults", config=DEBUG, fails=True)
    gateway.latency = usual
    # At debug level `airflow dags test` prints each value that Airflow is told to mask; a task's own log does
    # not.
    log.write_text("".join(line for line in printed.splitlines(True) if "msg=MaskSecret(" not in line))

    searched = dict(contents(airflow))
    assert b"DEBUG" in searched["logs/faults.txt"].upper()
    for kind in KINDS:  # Each has been met, and is told of.
        assert f"meets {kind}>".encode() in b"".join(request.body for request in gateway.requests), kind
    assert b"<batch meets bad_link>" in searched["airflow.db"]  # the rendered fields are in there
    assert gateway.cdn_requests
    secrets = (gateway.api_key, s3_store.secret_key, gateway.cdn_url, "X-Signature")
    found = [
        (path, secret)
        for path, content in searched.items()
        for secret in secrets
        if secret.encode() in content
    ]
    assert found == []
    for entry in s3_client.list_objects_v2(Bucket=BUCKET, Prefix="seedream/faults/")["Contents"]:
        metadata = str(s3_client.head_object(Bucket=BUCKET, Key=entry["Key"])["Metadata"])
        assert not any(secret in metadata for secret in secrets)
