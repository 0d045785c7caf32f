"""Run the command line: python -m ssd_train."""

import sys

if __name__ == "__main__":
    try:
        from ssd_train.cli.main import main

        code = main()
    except KeyboardInterrupt:  # before `main` handles it
        sys.stderr.write("interrupted\n")
        code = 130
    sys.exit(code)
