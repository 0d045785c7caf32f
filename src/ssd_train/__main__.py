"""Run the command line: python -m ssd_train."""

import sys

from ssd_train.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
