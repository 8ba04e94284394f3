"""The way of an image, from a link in a response to an object in S3."""
