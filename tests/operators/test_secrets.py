"""Whatever the gateway and its CDN do wrong, nothing that anybody can read holds a secret or a link.

Each fault of the sandbox meets each path: a waiting task, a deferred one, an item of a batch. Every logger
says all it can. What Airflow itself keeps of such tasks: `tests/airflow/test_secrets.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, get_args

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_aisa.exceptions import AisaError
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.sandbox import Fault, FaultKind
from airflow_provider_aisa.triggers.generate import GenerateTrigger
from tests.operators.conftest import SMALL, Desk, context_of
from tools.ports import find_free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS: Final[tuple[FaultKind, ...]] = get_args(FaultKind)
PATHS: Final = ("sync", "deferred", "batch")
PROXY_PASSWORD: Final = "hunter2-of-the-proxy"
#: What libraries set a level of their own for.
LOUD: Final = ("httpx", "httpcore", "botocore", "boto3", "urllib3", "s3transfer", "airflow_provider_aisa")


class Readable:
    """All that a person may come to read of the tasks that ran."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.outcomes: dict[tuple[str, str], str] = {}

    def sync(self, kind: str, prompt: str) -> None:
        """Run a task that waits."""
        operator = SeedreamGenerateOperator(task_id="generate", prompt=prompt, n=2)
        with self._told("sync", kind):
            self._keep(operator.execute(context_of(run_id=kind)))

    def deferred(self, kind: str, prompt: str) -> None:
        """Run a task until it defers, then its trigger, then what the event leads to."""
        operator = SeedreamGenerateOperator(task_id="deferred_task", prompt=prompt, n=2, deferrable=True)
        with pytest.raises(TaskDeferred) as caught:
            operator.execute(context_of(run_id=kind))
        row = caught.value.trigger.serialize()[1]
        self._keep(row)
        event = asyncio.run(_fire(GenerateTrigger(**row, earliest_event=0)))
        self._keep(event)
        with self._told("deferred", kind):
            self._keep(operator.execute_complete(context_of(run_id=kind), event))

    def batch(self, kind: str, prompt: str) -> None:
        """Run a batch, an item of which meets the fault."""
        operator = SeedreamBatchOperator(
            task_id="batch",
            requests=[{"id": "meets", "prompt": prompt, "n": 2}, {"id": "misses", "prompt": "A red panda"}],
            size=SMALL,
            on_item_failure="keep",
        )
        with self._told("batch", kind):
            self._keep(operator.execute(context_of(run_id=kind)))

    def _keep(self, value: object) -> None:
        self.said.append(json.dumps(value, ensure_ascii=False))

    @contextlib.contextmanager
    def _told(self, path: str, kind: str) -> Iterator[None]:
        try:
            yield
            self.outcomes[path, kind] = "success"
        except AisaError as e:
            self.outcomes[path, kind] = type(e).__name__
            self.said += [str(e), repr(e), json.dumps(e.to_dict()), "".join(traceback.format_exception(e))]


async def _fire(trigger: GenerateTrigger) -> dict[str, Any]:
    async for event in trigger.run():
        payload: dict[str, Any] = event.payload
        return payload
    raise AssertionError("the trigger fired nothing")


def prompt_of(kind: str, path: str) -> str:
    """Return the prompt that the fault is narrowed to: no other contains it."""
    return f"<{path} meets {kind}>"


def strikes(desk: Desk, path: str) -> dict[str, str]:
    """Let every fault strike its own prompt, as often as it is asked for; return the prompts."""
    prompts: dict[str, str] = {kind: prompt_of(kind, path) for kind in KINDS}
    for kind in KINDS:
        # An image that drips ends after minutes, or soon when its bytes do not wait.
        delay = 0.0 if kind == "cdn_drip" else 0.3
        # A batch waits as long as it is told to come later.
        times = 2 if "rate_limit" in kind else 1_000
        desk.gateway.inject(Fault(kind, times=times, prompt=prompts[kind], delay=delay))
    return prompts


@contextlib.contextmanager
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let every logger say all it can."""
    with contextlib.ExitStack() as stack:
        for name in ("", *LOUD):
            stack.enter_context(caplog.at_level(logging.DEBUG, logger=name or None))
        yield
    assert {"botocore", "airflow_provider_aisa"} <= {
        record.name.partition(".")[0] for record in caplog.records
    }


def found(readable: Readable, desk: Desk, log: str, *secrets: str) -> list[str]:
    """Return the lines that hold a secret, of all that people can read."""
    keys = desk.all_keys()
    heads = [desk.s3.head_object(Bucket=desk.bucket, Key=key) for key in keys]
    manifests = [desk.read(f"s3://{desk.bucket}/{key}").decode() for key in keys if "/manifest-" in key]
    everywhere = [log, *readable.said, *(json.dumps(head["Metadata"]) for head in heads), *manifests]
    lines = [line for text in everywhere for line in text.splitlines()]
    return [line[:300] for line in lines if any(secret in line for secret in secrets)]


@pytest.mark.parametrize("path", PATHS)
def test_no_fault_puts_a_secret_or_a_link_where_people_read(
    desk: Desk, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    desk.connect(timeout=1, max_retries=0)
    readable = Readable()
    prompts = strikes(desk, path)

    with everything_logged(caplog), ThreadPoolExecutor(8) as pool:
        list(pool.map(getattr(readable, path), prompts, prompts.values()))

    assert readable.outcomes.keys() == {(path, kind) for kind in KINDS}
    assert desk.gateway.cdn_requests  # Links were there to be told.
    secrets = (desk.gateway.api_key, desk.store.secret_key, "X-Signature", desk.gateway.cdn_url)
    assert found(readable, desk, caplog.text, *secrets) == []


@pytest.mark.parametrize("path", PATHS)
def test_a_proxys_password_is_nowhere_when_the_proxy_fails(
    desk: Desk, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    nobody = f"127.0.0.1:{find_free_ports(1)[0]}"
    extra = {"proxy": f"http://me:{PROXY_PASSWORD}@{nobody}", "max_retries": 0}
    connection = {**json.loads(desk.gateway.connection), "host": "https://gateway.test/v1", "extra": extra}
    desk.monkeypatch.setenv("AIRFLOW_CONN_AISA_DEFAULT", json.dumps(connection))
    readable = Readable()

    with everything_logged(caplog):
        getattr(readable, path)("proxy", "A red panda")

    assert nobody in "".join(readable.said) + caplog.text  # It is the proxy that is told of.
    assert found(readable, desk, caplog.text, PROXY_PASSWORD) == []
