from pathlib import Path

from skinlib.data import sample

sample.generate(Path("/tmp/foldcheck/lesions"), n_train=96, n_test=32)
