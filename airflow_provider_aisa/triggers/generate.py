"""The deferred form: the same path, on the triggerer's event loop, which it never blocks.

A triggerer that dies runs its triggers again from the start, and so does every deploy: the journal is what
keeps that from paying twice. An event carries keys and facts: it is stored in the database and logged.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.exceptions import AisaError
from airflow_provider_aisa.hooks.aisa import AisaHook
from airflow_provider_aisa.hooks.s3 import shared_s3_client
from airflow_provider_aisa.triggers.lasting import EARLIEST_EVENT, lasting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_aisa.core.receipt import Receipt


#: Triggers of one event loop that look up their connections at the same time.
_STARTS: Final = 10
_starting: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


class GenerateTrigger(BaseTrigger):
    """Does one job and fires one event: the result, or the error that the task has to raise.

    :param job: :meth:`Job.to_dict`; it holds no secret.
    :param aisa_conn_id: the AIsa connection.
    :param aws_conn_id: the AWS connection.
    :param earliest_event: seconds that pass before the event, however early the job is done. Not serialized:
        another process takes the default.
    """

    def __init__(
        self,
        *,
        job: dict[str, Any],
        aisa_conn_id: str,
        aws_conn_id: str | None,
        earliest_event: float = EARLIEST_EVENT,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's has no annotations
        self.job = job
        self.aisa_conn_id = aisa_conn_id
        self.aws_conn_id = aws_conn_id
        self.earliest_event = earliest_event

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another process needs to run this trigger."""
        return (
            "airflow_provider_aisa.triggers.generate.GenerateTrigger",
            {"job": self.job, "aisa_conn_id": self.aisa_conn_id, "aws_conn_id": self.aws_conn_id},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield ``{"result": …}``, or ``{"error": …}`` for the task to raise: Airflow logs all of it."""
        async with lasting(self.earliest_event):
            event = await self._event()
        yield event

    async def on_kill(self) -> None:
        """Say what a person who stopped the task has to know; called on Airflow 3.3 and above."""
        job = Job.from_dict(self.job)
        self.log.warning(
            "Stopped. Whatever was paid for is recorded in s3://%s/%s, and a later run goes on from there.",
            job.target.bucket,
            job.journal_key,
        )

    async def _event(self) -> TriggerEvent:
        try:
            return TriggerEvent({"result": (await self._generate()).result})
        except AisaError as e:
            told = {name: value for name, value in e.to_dict().items() if value is not None}
            return TriggerEvent({"error": told})

    async def _generate(self) -> Receipt:
        async with _start():
            job = Job.from_dict(self.job)
            # The first import of an HTTP client takes tenths of a second.
            await asyncio.to_thread(import_module, "airflow_provider_aisa.core.alone")
            settings = await AisaHook(self.aisa_conn_id).aget_settings()
            client = await shared_s3_client(self.aws_conn_id)
        from airflow_provider_aisa.core.alone import generate_alone
        from airflow_provider_aisa.core.s3.bucket import Bucket

        bucket = Bucket(client, job.target.bucket or "", job.s3_extra_args)
        return await generate_alone(job, settings=settings, bucket=bucket)


def _start() -> asyncio.Semaphore:
    """Return what lets triggers start a few at a time: hundreds in one step of the loop would block it."""
    return _starting.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_STARTS))
