"""The path from a request to its stored images. Nothing in here imports Airflow."""
