"""How Airflow finds the gallery, and what that costs those who never look at it."""

from __future__ import annotations

import json
import subprocess
import sys

from airflow import plugins_manager

from airflow_provider_aisa.plugins.gallery import AisaPlugin

BEFORE = """
import json, sys
from airflow.providers.common.compat import sdk, version_compat
version_compat.AIRFLOW_V_3_1_PLUS = {is_new}
before = set(sys.modules)
from airflow_provider_aisa.plugins.gallery import AisaPlugin
added = {{name.partition(".")[0] for name in set(sys.modules) - before}}
views = [view["destination"] for view in getattr(AisaPlugin, "external_views", [])]
print("\\n" + json.dumps([sorted(added - sys.stdlib_module_names), views, len(AisaPlugin.fastapi_apps)]))
"""


def after_import(*, is_new: bool) -> list[object]:
    """Return what the plugin's module loads, its views and its apps, in a fresh interpreter."""
    code = BEFORE.format(is_new=is_new)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_airflow_finds_the_plugin_by_its_entry_point() -> None:
    plugins, errors = plugins_manager._get_plugins()
    found = [plugin for plugin in plugins if plugin.name == "aisa"]

    assert [plugin.fastapi_apps for plugin in found] == [AisaPlugin.fastapi_apps]
    assert [error for error in errors if "aisa" in str(error)] == []


def test_importing_the_plugin_loads_no_web_framework_and_no_database() -> None:
    """Schedulers, workers and triggerers import it, and show no pages."""
    added, views, apps = after_import(is_new=True)

    assert added == ["airflow_provider_aisa"]
    assert (views, apps) == (["dag", "dag_run", "task_instance"], 1)


def test_before_airflow_3_1_nothing_is_registered() -> None:
    _, views, apps = after_import(is_new=False)

    assert (views, apps) == ([], 0)


def test_addresses_of_views_are_relative_and_name_what_airflow_fills_in() -> None:
    for view in AisaPlugin.external_views:
        assert view["href"].startswith("aisa/")
        assert view["href"].partition("?")[2].startswith("dag_id={DAG_ID}")
        assert len({other["url_route"] for other in AisaPlugin.external_views}) == 3
