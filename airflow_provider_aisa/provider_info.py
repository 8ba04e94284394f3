"""What Airflow discovers about this package, without importing any of it."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, as `airflow providers get airflow-provider-aisa` shows it."""
    return {
        "package-name": "airflow-provider-aisa",
        "name": "AIsa",
        "description": "Generate images with ByteDance Seedream through the AIsa gateway, stored in S3, paid once.",
        "versions": ["0.1.0"],
    }
