"""All that differs between the series of Airflow, for the matrix: nothing else there asks for a version."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints"

#: Airflow's API server and task runner break with later versions of these than there were at its release.
#: 3.2.2, for one, needs the cadwyn before 7.0 even for `airflow dags test`.
FROZEN_AT_RELEASE = (
    "cadwyn",
    "fastapi",
    "pydantic",
    "pydantic-core",
    "sqlalchemy",
    "starlette",
    "structlog",
    "svcs",
    "uvicorn",
)

#: The unit tests of everything that Airflow calls.
FACES = (
    "tests/decorators",
    "tests/hooks",
    "tests/operators",
    "tests/test_airflow_compat.py",
    "tests/test_assets.py",
    "tests/test_labels.py",
    "tests/test_lineage.py",
    "tests/test_links.py",
    "tests/test_public.py",
    "tests/triggers",
)

#: The newest series has one more.
NEWEST_FACES = (*FACES, "tests/test_retry_policy.py")

#: Of those, the ones that take much of the time and are about this package's own processes, sizes and words.
NOT_ABOUT_AIRFLOW = (
    "tests/operators/test_references.py",
    "tests/operators/test_secrets.py",
    "tests/operators/test_batch_result.py::test_the_xcom_stays_small_at_any_number_of_items",
    "tests/triggers/test_copies.py::test_two_copies_of_a_trigger_in_two_processes_send_one_request",
)


@dataclass(frozen=True)
class Series:
    """A release of Airflow that stands for its series.

    `released` is the day for FROZEN_AT_RELEASE, None for the newest series: that one is as it resolves today.
    `python` is an interpreter's version such as "3.13", None for the one that runs this.
    `instead_of` is a newer one: where there is such an interpreter, this need not be run.
    `beside` are packages that are installed beside Airflow, and `label` is what they are for.
    `prints_masks` is for a release that logs, at debug level, which values it masks: the key is among them.
    """

    airflow: str
    released: str | None = None
    python: str | None = None
    instead_of: str | None = None
    label: str = ""
    beside: tuple[str, ...] = ()
    prints_masks: bool = False
    tests: tuple[str, ...] = field(default=FACES)

    @property
    def name(self) -> str:
        """Return the name of its virtual environment."""
        parts = ("airflow", self.airflow, f"python{self.python}" if self.python else "", self.label)
        return "-".join(filter(None, parts))

    @property
    def has_gallery(self) -> bool:
        """Tell whether there are pages of ours to look at: once for each series, whatever the Python."""
        return tuple(map(int, self.airflow.split("."))) >= (3, 1) and self.python is None

    @property
    def constraints(self) -> Path:
        """Return the file that pins what is installed beside it."""
        return CONSTRAINTS / f"{self.name}.txt"


SERIES = (
    Series("2.11.0", released="2025-05-21"),
    Series("3.0.6", released="2025-08-31", prints_masks=True),
    Series("3.1.8", released="2026-03-15"),
    Series("3.2.2", released="2026-06-01"),
    Series("3.3.2", tests=NEWEST_FACES),
    Series("3.3.2", python="3.14", tests=NEWEST_FACES),
    Series("3.3.2", python="3.13", instead_of="3.14", tests=NEWEST_FACES),
)

#: The Celery executor imports a name that 5.7 has no longer.
CELERY = "celery[redis]<5.7"

#: What `make e2e-celery` runs: the newest series with Celery, Redis and PostgreSQL.
FLEET = Series(
    "3.3.2",
    label="celery",
    beside=("apache-airflow-providers-celery", "apache-airflow-providers-postgres", CELERY),
)
