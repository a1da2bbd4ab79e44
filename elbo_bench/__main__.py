"""`python -m elbo_bench`: the command line."""

import sys

from elbo_bench.cli import main

if __name__ == "__main__":  # processes of a sweep import this module too
    sys.exit(main())
