"""What all tests share. Every process has its own Airflow home, decided before Airflow is imported."""

from __future__ import annotations

import atexit
import gc
import importlib
import itertools
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings as hypothesis_settings

from tests.loading import read_models_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

    from tools.seaweedfs import SeaweedFS

_AIRFLOW_HOME = tempfile.mkdtemp(prefix="aisa-tests-")
_BUCKETS = itertools.count()
#: A running Airflow, Airflow's web application, the built documents, an S3 store to be tried out.
_TOGETHER = ("tests/airflow/", "tests/ui/", "tests/docs/", "tests/tools/test_seaweedfs.py")
#: The demo starts an Airflow of its own. What Airflow keeps of faults is looked for after a command of a
#: minute, mostly waiting: the other tests of Airflow, which take longest, need not wait for it.
_APART = {"tests/airflow/test_demo.py", "tests/airflow/test_secrets.py"}

# Coverage is measured in pytest's workers, and not in what they start in turn: that makes Airflow slow.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
# What is set on a developer's machine must not decide what a test does: no proxy, no account, no connection.
for _name in list(os.environ):
    if _name.startswith(("AIRFLOW_", "AWS_")) or _name.lower().endswith("_proxy"):
        del os.environ[_name]
os.environ |= {
    "AIRFLOW_HOME": _AIRFLOW_HOME,
    "AIRFLOW__CORE__DAGS_FOLDER": f"{_AIRFLOW_HOME}/dags",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@atexit.register  # for a run that ends before it is configured
def _delete_airflow_home(owner: int = os.getpid()) -> None:
    if os.getpid() == owner:  # A forked child runs this, too.
        shutil.rmtree(_AIRFLOW_HOME, ignore_errors=True)


read_models_once()

# A shared machine can be slow at any moment: no test asserts a time.
hypothesis_settings.register_profile("aisa", deadline=None)
hypothesis_settings.load_profile("aisa")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what is imported by now: it would look at all of Airflow time and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Delete the Airflow home. xdist's workers end here, without `atexit`."""
    _delete_airflow_home()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give tests that share what takes long to start to one worker, which starts it once.

    Large groups come first: the tests of the real Airflow take longest. The mark `xdist_group` has no effect
    with pytest 9.2 and xdist 3.8.
    """
    scheduler: Any = importlib.import_module("xdist.scheduler").LoadScopeScheduling(config, log)
    scheduler._split_scope = _scope_of
    return scheduler


def _scope_of(name: str) -> str:
    if name.partition("::")[0] in _APART:
        return name
    return next((shared for shared in _TOGETHER if name.startswith(shared)), name)


@pytest.fixture(scope="session")
def s3_store() -> Iterator[SeaweedFS]:
    """Run one S3 store per process, from the first test that asks for it."""
    from tools.seaweedfs import SeaweedFS

    with SeaweedFS() as store:
        yield store


@pytest.fixture(scope="session")
def s3_client(s3_store: SeaweedFS) -> S3Client:
    """Return a boto3 client that may do everything in the store. Making one takes a tenth of a second."""
    return s3_store.client()


@pytest.fixture
def bucket(s3_client: S3Client) -> str:
    """Create an empty bucket for one test, and return its name."""
    name = f"test-{next(_BUCKETS)}"
    s3_client.create_bucket(Bucket=name)
    return name
