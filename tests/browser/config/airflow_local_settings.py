"""Airflow imports this first. `airflow standalone` insists on SimpleAuthManager: that name is ours here."""

import importlib
import sys

if "api-server" in sys.argv:
    from airflow.api_fastapi.auth.managers.simple import simple_auth_manager

    # Lies beside this file in the folder of Airflow's configuration.
    vars(simple_auth_manager)["SimpleAuthManager"] = importlib.import_module("auth").PerDagAuthManager
