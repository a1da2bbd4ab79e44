"""A Ray cluster: one that runs, or one of this machine's own that ends with this process."""

import logging
import os
from typing import Any

from elbo_bench.errors import UsageError


def connect(address: str | None, workers: int | None) -> Any:
    """Return Ray, connected.

    Args:
        address: Of the cluster; None starts one.
        workers: Cores that one which is started has to give; None is all.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray: Ray is not installed: pip install 'elbo-bench[ray]'") from None
    own: dict[str, Any] = {} if address else {"include_dashboard": False, "num_cpus": workers}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = f"engine.address={address}: no Ray cluster"
        raise UsageError(f"{what}: {' '.join(str(error).split())}") from None
    return ray
