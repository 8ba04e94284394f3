"""S3, through the boto3 client of S3Hook: an object is stored whole or not at all."""
