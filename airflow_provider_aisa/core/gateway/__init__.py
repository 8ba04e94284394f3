"""What AIsa sells and how it is asked. Nothing in here knows a journal or S3."""
