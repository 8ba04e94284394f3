"""AIsa for Apache Airflow: images of every model of AIsa, paid once, stored in S3.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from airflow_provider_aisa.version import __version__

if TYPE_CHECKING:
    from airflow_provider_aisa.chunks import chunk_requests
    from airflow_provider_aisa.hooks.aisa import AisaHook
    from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
    from airflow_provider_aisa.operators.gemini import GeminiGenerateOperator
    from airflow_provider_aisa.operators.image_batch import ImageBatchOperator
    from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
    from airflow_provider_aisa.operators.wan import WanGenerateOperator
    from airflow_provider_aisa.retry_policy import AisaRetryPolicy
    from airflow_provider_aisa.triggers.generate import GenerateTrigger

__all__ = [
    "AisaHook",
    "AisaRetryPolicy",
    "GeminiGenerateOperator",
    "GenerateTrigger",
    "ImageBatchOperator",
    "SeedreamBatchOperator",
    "SeedreamGenerateOperator",
    "WanGenerateOperator",
    "__version__",
    "chunk_requests",
]

_HOMES = {
    "AisaHook": "hooks.aisa",
    "AisaRetryPolicy": "retry_policy",  # needs Airflow 3.3
    "GeminiGenerateOperator": "operators.gemini",
    "GenerateTrigger": "triggers.generate",
    "ImageBatchOperator": "operators.image_batch",
    "SeedreamBatchOperator": "operators.batch",
    "SeedreamGenerateOperator": "operators.seedream",
    "WanGenerateOperator": "operators.wan",
    "chunk_requests": "chunks",
}


if not TYPE_CHECKING:  # or a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        if home := _HOMES.get(name):
            return getattr(import_module(f"{__name__}.{home}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
