"""The platform on one machine: S3, MLflow, Metaflow's metadata, AWS Batch, Kubernetes; no containers, no accounts."""
