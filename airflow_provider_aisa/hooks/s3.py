"""An AWS connection becomes an S3 client. Session, endpoint and settings are S3Hook's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_aisa.version import __version__

if TYPE_CHECKING:
    from botocore.awsrequest import AWSRequest
    from mypy_boto3_s3 import S3Client

#: Seconds for which a triggerer's tasks share a client: making one takes tens of milliseconds and megabytes.
SHARED_FOR: Final = 900.0
_MAX_POOL_CONNECTIONS: Final = 50
_SMALL: Final = 1024 * 1024  # bytes
_shared: dict[str | None, tuple[float, S3Client]] = {}


def open_s3(
    aws_conn_id: str | None, *, connections: int = 0, settings: Mapping[str, Any] | None = None
) -> tuple[S3Client, str | None]:
    """Return a boto3 client for the connection, and the connection's own bucket if it names one.

    :param connections: how many more than usual are used at once.
    :param settings: of botocore's ``Config``, where the connection does not say otherwise.
    """
    import boto3
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from botocore.config import Config

    from airflow_provider_aisa.core.s3.signing import sign_links_with_version_4, sign_with_known_hash

    hook = S3Hook(aws_conn_id=aws_conn_id)
    ours = Config(
        max_pool_connections=_MAX_POOL_CONNECTIONS + connections,
        # Not `user_agent_extra`: to that botocore adds its own, put together anew twice for each request,
        # which takes a quarter of its time.
        user_agent=f"airflow-provider-aisa/{__version__} Boto3/{boto3.__version__}",
        **(settings or {}),
    )
    # What S3Hook.get_conn does, but for its user agent: to name its caller there, it looks up the path of
    # every module that the process has loaded, which takes a twentieth of a second.
    client: S3Client = hook.get_session().client(
        "s3",
        endpoint_url=hook.conn_config.get_service_endpoint_url(service_name="s3"),
        config=ours.merge(hook.conn_config.botocore_config or Config()),
        verify=hook.verify,
    )
    sign_with_known_hash(client)
    sign_links_with_version_4(client)
    client.meta.events.register("request-created.s3.PutObject", _send_small_bodies_at_once)
    return client, hook.service_config.get("bucket_name")


def _send_small_bodies_at_once(request: AWSRequest, **_: Any) -> None:
    """Do not ask S3 first whether it will take a small body.

    botocore asks before every upload (``Expect: 100-continue``) and reads the answer byte by byte: a round
    trip, and two dozen system calls that each wait for the GIL. A large body is announced: a store that
    refuses one may close the connection meanwhile, and then its reason would be lost.
    """
    from botocore.utils import determine_content_length

    if (determine_content_length(request.data) or 0) <= _SMALL:
        del request.headers["Expect"]


async def shared_s3_client(aws_conn_id: str | None) -> S3Client:
    """Return a client that this process's tasks share, without blocking the event loop."""
    from asgiref.sync import sync_to_async

    # Airflow answers a connection lookup from a thread only when it comes through asgiref, whose one
    # thread also keeps two tasks from making the same client.
    return await sync_to_async(_shared_s3_client)(aws_conn_id)


def _shared_s3_client(aws_conn_id: str | None) -> S3Client:
    made, client = _shared.get(aws_conn_id, (0.0, None))
    if client is None or time.monotonic() - made > SHARED_FOR:
        client, _ = open_s3(aws_conn_id)
        _shared[aws_conn_id] = (time.monotonic(), client)
    return client
