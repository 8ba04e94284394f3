"""Two tasks that fail for a person's mistake, and one by a template: what they say is what is looked at."""

from airflow.sdk import DAG

from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

with DAG("refused", schedule=None, default_args={"s3_bucket": "my-images", "retries": 2}):
    SeedreamGenerateOperator(task_id="prompt", prompt="Something that the content policy refuses")
    SeedreamGenerateOperator(task_id="size", prompt="A red panda", size="{{ '640x480' }}")
    SeedreamGenerateOperator(task_id="bucket", prompt="A red panda", s3_bucket="no-such-bucket")
    SeedreamGenerateOperator(
        task_id="deferred", prompt="Something that the content policy refuses", deferrable=True
    )
