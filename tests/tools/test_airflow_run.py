from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.tools.test_supervise import alive, wait_until
from tools.airflow_run import AirflowError, StandaloneAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

DAG = """
from airflow.sdk import DAG, BaseHook, get_current_context, task

with DAG("probe", schedule=None):
    @task
    def look():
        print("a line of the task's log")
        context = get_current_context()
        extra = BaseHook.get_connection("probe").extra_dejson
        return {"conf": context["dag_run"].conf, "extra": extra}

    look()
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneAirflow]:
    dags = tmp_path_factory.mktemp("dags")
    (dags / "probe.py").write_text(DAG)
    connection = json.dumps({"conn_type": "generic", "password": "s3cret", "extra": {"a": 1}})
    home = tmp_path_factory.mktemp("airflow")
    with StandaloneAirflow(home, dags, connections={"probe": connection}) as running:
        running.wait_until_ready()
        running.unpause("probe")
        yield running
        pids = [process.pid for process in running.processes()]
    assert len(pids) > 5
    assert [pid for pid in pids if alive(pid)] == []


def test_a_triggered_run_gets_its_conf_and_connection_and_returns_its_xcom(
    airflow: StandaloneAirflow,
) -> None:
    run_id = airflow.trigger("probe", {"key": "value"})
    assert airflow.wait_for_run("probe", run_id, timeout=120) == "success"
    assert airflow.xcom("probe", run_id, "look") == {"conf": {"key": "value"}, "extra": {"a": 1}}
    assert airflow.task_instance("probe", run_id, "look")["try_number"] == 1
    assert "a line of the task's log" in airflow.task_log("probe", run_id, "look")

    airflow.clear("probe", run_id, "look")
    assert airflow.wait_for_run("probe", run_id, timeout=120) == "success"
    assert airflow.task_instance("probe", run_id, "look")["try_number"] == 2

    files = [path.read_bytes() for path in airflow.home.rglob("*") if path.is_file()]
    assert [content for content in files if b"s3cret" in content] == []


def test_a_killed_triggerer_can_be_replaced(airflow: StandaloneAirflow) -> None:
    killed = [process.pid for process in airflow.processes("airflow triggerer")]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    airflow.start("triggerer")
    wait_until(lambda: len(airflow.processes("airflow triggerer")) >= 2, seconds=60)
    assert not {process.pid for process in airflow.processes("airflow triggerer")} & set(killed)


def test_what_the_api_refuses_is_an_error_that_says_so(airflow: StandaloneAirflow) -> None:
    with pytest.raises(AirflowError, match=r"/dagRuns answered 404"):
        airflow.trigger("no_such_dag")
