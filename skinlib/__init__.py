"""From a bucket of labelled skin-lesion images to a registered, trustworthy classifier."""

import os

# Metaflow packages this module, and all below it, with a flow that imports it.
METAFLOW_PACKAGE_POLICY = "include"

# torch's threads spin while they wait for each other, so one other busy process on 2 cores slows training to a tenth
# (13 instead of 136 images/s for ResNet-18 at 128 px). OpenMP reads this once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
