"""Fixtures shared by all tests; the servers they start are real and end with them."""

pytest_plugins = ["tests.servers.s3", "tests.servers.mlflow"]
