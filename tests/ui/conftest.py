"""Airflow's whole API server in this process, with a database of its own: the gallery is where it will be."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.ui.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

    from tools.seaweedfs import SeaweedFS

SETTINGS = {
    "AIRFLOW__CORE__AUTH_MANAGER": "tests.ui.auth.PerDagAuthManager",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,viewer:viewer",
    "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of these tests, as long as such secrets have to be: 64 bytes",
    "AIRFLOW__API__SECRET_KEY": "another secret of these tests",
}


@pytest.fixture(scope="session")
def airflow_app() -> Iterator[Any]:
    """Make the API server as `airflow api-server` makes it, plugins and middlewares included."""
    os.environ |= SETTINGS
    from airflow import settings
    from airflow.api_fastapi.app import create_app
    from airflow.models.base import Base

    models: Any = importlib.import_module("airflow.models")
    models.import_all_models()
    Base.metadata.create_all(settings.engine)
    yield create_app(apps="core")
    for name in SETTINGS:
        del os.environ[name]


@pytest.fixture
def world(
    airflow_app: Any,
    s3_store: SeaweedFS,
    s3_client: S3Client,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """Return an Airflow that has run nothing yet, and an empty bucket."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", s3_store.airflow_connection(bucket=bucket))
    from airflow_provider_aisa.ui import stores

    monkeypatch.setattr(stores, "_stores", {})
    with World.open(airflow_app, s3_client, bucket) as world:
        yield world
