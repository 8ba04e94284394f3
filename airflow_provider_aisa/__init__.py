"""AIsa for Apache Airflow: Seedream images, paid once, stored in S3."""

__version__ = "0.1.0"
