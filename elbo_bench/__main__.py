"""`python -m elbo_bench`: the command line."""

import sys

from elbo_bench.cli import main

sys.exit(main())
