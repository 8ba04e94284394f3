"""`make test-matrix`: the package on every series of Airflow that it is said to work on."""
