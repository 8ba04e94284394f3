"""What Airflow finds by its entry point ``airflow.plugins``."""
