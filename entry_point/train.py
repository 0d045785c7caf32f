"""What the SageMaker MXNet estimator runs to train, and imports to serve. The package travels beside it."""

import runpy
import sys

sys.path.append(__file__.replace("train.py", "lib"))  # where deploy() of the SDK copies `dependencies`
if __name__ == "__main__":
    runpy.run_module("ssd_train", run_name="__main__")
else:
    from ssd_train.deploy.serve import model_fn, transform_fn  # noqa: F401
