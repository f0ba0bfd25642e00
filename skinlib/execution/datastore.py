"""The datastore of a run, which also holds the packed images and the checkpoints."""

from metaflow import FlowSpec

from skinlib.data.storage import Store, open_store


def run_store(flow: FlowSpec) -> Store:
    """Open the store in which the run of the current task keeps its artifacts, local or S3."""
    # Metaflow keeps this private. Its public Client does not know a remote task when metadata is local.
    # A step that `spin` repeats reads the run that it repeats.
    datastore = getattr(flow._datastore, "orig_datastore", flow._datastore).parent_datastore
    if datastore.TYPE == "s3":
        from metaflow.metaflow_config import S3_ENDPOINT_URL

        return open_store(datastore.datastore_root, endpoint_url=S3_ENDPOINT_URL)
    return open_store(datastore.datastore_root, create=True)
