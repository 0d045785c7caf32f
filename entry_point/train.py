"""Entry point of the SageMaker MXNet estimator, for training and serving."""

import runpy
import sys

sys.path.append(__file__.replace("train.py", "lib"))  # deploy() of the SDK copies `dependencies` there
if __name__ == "__main__":
    runpy.run_module("ssd_train", run_name="__main__")
else:
    from ssd_train.deploy.handlers import model_fn, transform_fn  # noqa: F401
