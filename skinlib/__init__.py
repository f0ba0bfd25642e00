"""From a bucket of labelled skin-lesion images to a registered, trustworthy classifier."""

from skinlib import machine

# Here, because this is imported before torch and NumPy, which read their number of threads only once.
machine.limit_threads()

# Metaflow packages this module, and all below it, with a flow that imports it.
METAFLOW_PACKAGE_POLICY = "include"
