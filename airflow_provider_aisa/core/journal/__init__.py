"""The journal of paid requests: what an entry says, what follows from it, and how it is kept in S3."""
