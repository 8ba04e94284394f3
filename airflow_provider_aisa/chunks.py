"""A batch too long for one task becomes mapped tasks, each with requests that no other has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

from airflow.providers.common.compat.sdk import conf

from airflow_provider_aisa.core.batch.chunks import check_size, chunk_file, chunk_list
from airflow_provider_aisa.core.batch.source import check_requests
from airflow_provider_aisa.exceptions import InvalidRequest

_MAX_MAP_LENGTH: Final = 1024  # Airflow's own default


def chunk_requests(
    requests: object, *, size: int = 500, aws_conn_id: str | None = "aws_default"
) -> list[Any]:
    """Cut requests into chunks, for a task whose result ``SeedreamBatchOperator`` is mapped over.

    ::

        @task
        def cut():
            return chunk_requests("s3://my-bucket/catalogue.jsonl")

        SeedreamBatchOperator.partial(task_id="generate").expand(requests=cut())

    A list becomes lists, which go through XCom with all their prompts. A file stays where it is and becomes
    URIs of its parts: use one for thousands of requests. It must not change until the mapped tasks are done.

    :param requests: a list of requests, or the ``s3://bucket/key`` of a JSON Lines file.
    :param size: the most requests of a chunk.
    :param aws_conn_id: the AWS connection that reads the file.
    :raises InvalidRequest: there are no requests, lines are no JSON, two requests would get in each other's
        way, or there are more chunks than Airflow maps.
    :raises StorageFailed: the file could not be read.
    """
    check_size(size)
    check_requests(requests)
    chunks: list[Any]
    if isinstance(requests, str):
        from airflow_provider_aisa.hooks.s3 import open_s3

        client, _ = open_s3(aws_conn_id)
        chunks = chunk_file(requests, size, client)
    else:
        chunks = chunk_list(cast("Iterable[object]", requests), size)
    _check_count(len(chunks), size)
    return chunks


def _check_count(count: int, size: int) -> None:
    limit = conf.getint("core", "max_map_length", fallback=_MAX_MAP_LENGTH)
    if count <= limit:
        return
    fits = -(-count * size // limit)
    raise InvalidRequest(
        f"Use size={fits}, or raise Airflow's [core] max_map_length: size={size} makes {count:,} chunks, and "
        f"Airflow maps at most {limit:,}. Nothing was sent."
    )
