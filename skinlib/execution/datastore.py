"""The datastore of a run, which also holds the packed images and the checkpoints."""

from metaflow import FlowSpec

from skinlib.data.storage import Store, open_store
from skinlib.errors import StorageError


def run_store(flow: FlowSpec) -> Store:
    """Open the store in which the run of the current task keeps its artifacts, local or S3."""
    # Metaflow keeps this private. Its public Client does not know a remote task when metadata is local.
    # A step that `spin` repeats reads the run that it repeats.
    datastore = getattr(flow._datastore, "orig_datastore", flow._datastore).parent_datastore
    if datastore.TYPE == "s3":
        from metaflow.metaflow_config import S3_ENDPOINT_URL

        return open_store(datastore.datastore_root, endpoint_url=S3_ENDPOINT_URL)
    return open_store(datastore.datastore_root, create=True)


def default_store() -> Store:
    """Open the store in which runs that start in this folder and environment keep their artifacts.

    Raises:
        StorageError: There is none yet, or it cannot be opened.
    """
    from metaflow.metaflow_config import DATASTORE_SYSROOT_S3, DEFAULT_DATASTORE, S3_ENDPOINT_URL
    from metaflow.plugins.datastores.local_storage import LocalStorage

    if DEFAULT_DATASTORE == "s3" and DATASTORE_SYSROOT_S3:
        return open_store(DATASTORE_SYSROOT_S3, endpoint_url=S3_ENDPOINT_URL)
    root = LocalStorage.get_datastore_root_from_config(lambda *_, **__: None, create_on_absent=False)
    if root is None:
        raise StorageError("No run has been started in this folder; go to the folder of your runs.")
    return open_store(root)
