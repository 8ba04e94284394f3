"""Airflow connections become clients here."""
