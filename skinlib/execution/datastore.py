"""The datastore of a run, in which the packed images and the checkpoints are kept."""

from metaflow import FlowSpec

from skinlib.data.storage import Store, open_store


def run_store(flow: FlowSpec) -> Store:
    """Open the store in which the run of a flow's current task keeps its artifacts, wherever that is."""
    # Not by the Client, which does not know a remote task where metadata is local.
    datastore = flow._datastore.parent_datastore
    if datastore.TYPE == "s3":
        from metaflow.metaflow_config import S3_ENDPOINT_URL

        return open_store(datastore.datastore_root, endpoint_url=S3_ENDPOINT_URL)
    return open_store(datastore.datastore_root, create=True)
