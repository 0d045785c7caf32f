"""Train, evaluate, export and serve SSD object detectors on MXNet, on a laptop or on SageMaker.

docs/architecture.md describes the packages and which may import which.
"""

__version__ = "0.1.0"
