"""Development tools: a local object store, a local Airflow, and the demo that joins them."""
