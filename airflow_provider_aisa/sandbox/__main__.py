"""`python -m airflow_provider_aisa.sandbox` is the whole command line; there is no console script."""

import sys

from airflow_provider_aisa.sandbox.cli import main

if __name__ == "__main__":
    sys.exit(main())
