"""From a bucket of labelled skin-lesion images to a registered, trustworthy classifier."""

# Metaflow packages this module, and all below it, with a flow that imports it.
METAFLOW_PACKAGE_POLICY = "include"
