from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.images.site import Site

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.sandbox import Sandbox


@pytest.fixture
def site(aisa_sandbox: Sandbox, s3_client: S3Client, bucket: str, tmp_path: Path) -> Site:
    folder = tmp_path / "on their way"
    folder.mkdir()
    return Site(aisa_sandbox, s3_client, bucket, folder)
