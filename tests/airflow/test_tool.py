"""What the tests' own Airflow promises besides: the other tests of this folder show the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tools.airflow_run import AirflowError

if TYPE_CHECKING:
    from tests.airflow.support import Airflow


def test_what_the_api_refuses_is_an_error_that_says_so(airflow: Airflow) -> None:
    with pytest.raises(AirflowError, match=r"/dagRuns answered 404"):
        airflow.trigger("no_such_dag")
