"""What Airflow discovers about this package, without importing any of it.

The connection form is written down once, here. Airflow 3.2 and above read it from here; the hook's
classmethods, which Airflow 3.1 and below call, derive theirs from it.
"""

from __future__ import annotations

from typing import Any, Final

from airflow_provider_aisa.version import __version__

CONNECTION_TYPE: Final = "aisa"
HOOK_NAME: Final = "AIsa"

CONNECTION_FIELDS: Final[dict[str, dict[str, Any]]] = {
    "timeout": {
        "label": "Timeout",
        "description": "Seconds for one request and its response. Generating takes tens of seconds.",
        "schema": {"type": ["integer", "null"], "default": 300, "minimum": 1},
    },
    "max_retries": {
        "label": "Max retries",
        "description": "How often a request is sent again when that cannot pay twice.",
        "schema": {"type": ["integer", "null"], "default": 4, "minimum": 0},
    },
    "max_concurrency": {
        "label": "Max concurrency",
        "description": "Requests in flight at once, per process. The free tier allows 5 per key.",
        "schema": {"type": ["integer", "null"], "default": 5, "minimum": 1},
    },
    "requests_per_minute": {
        "label": "Requests per minute",
        "description": "Limit per process. Empty: only the gateway's own limit.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "proxy": {
        "label": "Proxy",
        "description": "URL of an HTTP proxy. Empty: the environment's.",
        # No password field: what is typed can be read, and Airflow hides it as soon as it is saved.
        "schema": {"type": ["string", "null"]},
    },
    "prices": {
        "label": "Prices",
        "description": 'USD per image by model, as JSON: {"seedream-4-5-251128": 0.04}. Empty: list prices.',
        "schema": {"type": ["string", "null"]},
    },
}

FIELD_BEHAVIOUR: Final[dict[str, Any]] = {
    "hidden-fields": ["login", "port", "schema"],
    # Airflow marks its own required fields with an asterisk, too, and has no other way to mark ours.
    "relabeling": {"host": "Base URL", "password": "API key *"},
    "placeholders": {"host": "https://api.aisa.one/v1 when empty", "password": "required: sk-aisa-..."},
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, as `airflow providers get airflow-provider-aisa` shows it."""
    return {
        "package-name": "airflow-provider-aisa",
        "name": "AIsa",
        "description": "Generate images with Seedream, Wan and Gemini through AIsa, stored in S3, paid once.",
        "versions": [__version__],
        "integrations": [
            {"integration-name": "AIsa", "external-doc-url": "https://aisa.one/docs", "tags": ["service"]}
        ],
        "hooks": [{"integration-name": "AIsa", "python-modules": ["airflow_provider_aisa.hooks.aisa"]}],
        "operators": [
            {
                "integration-name": "AIsa",
                "python-modules": [
                    "airflow_provider_aisa.operators.batch",
                    "airflow_provider_aisa.operators.gemini",
                    "airflow_provider_aisa.operators.image_batch",
                    "airflow_provider_aisa.operators.seedream",
                    "airflow_provider_aisa.operators.wan",
                ],
            }
        ],
        "task-decorators": [
            {"name": "seedream", "class-name": "airflow_provider_aisa.decorators.seedream.seedream_task"},
            {"name": "wan", "class-name": "airflow_provider_aisa.decorators.wan.wan_task"},
            {"name": "gemini", "class-name": "airflow_provider_aisa.decorators.gemini.gemini_task"},
        ],
        "extra-links": [
            "airflow_provider_aisa.links.GalleryLink",
            "airflow_provider_aisa.links.ImagesLink",
            "airflow_provider_aisa.links.JournalLink",
            "airflow_provider_aisa.links.ManifestLink",
        ],
        "triggers": [
            {"integration-name": "AIsa", "python-modules": ["airflow_provider_aisa.triggers.generate"]}
        ],
        "connection-types": [
            {
                "connection-type": CONNECTION_TYPE,
                "hook-class-name": "airflow_provider_aisa.hooks.aisa.AisaHook",
                "hook-name": HOOK_NAME,
                "ui-field-behaviour": FIELD_BEHAVIOUR,
                "conn-fields": CONNECTION_FIELDS,
            }
        ],
    }
