# Types of the public names, which __init__.py imports when they are first used.
from ssd_train.api import evaluate as evaluate
from ssd_train.api import load_labels as load_labels
from ssd_train.api import train as train
from ssd_train.deploy.detector import Detector as Detector

__version__: str
