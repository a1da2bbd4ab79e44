"""A configuration that names data by content: a run on a user's own file is known by its bytes, not by its path."""

import dataclasses

from elbo_bench import config
from elbo_bench.catalogue import Catalogue, Config
from elbo_bench.data.dataset import DataSource
from elbo_bench.data.files import data_root
from elbo_bench.errors import UsageError


def pinned(cfg: Config, catalogue: Catalogue) -> Config:
    """Return a checked configuration whose data are pinned: `data.sha256` of a user's own file is filled in.

    Raises:
        UsageError: The file is missing or cannot be read.
    """
    source = config.make("data", cfg["data"], catalogue)
    if not isinstance(source, DataSource):
        raise UsageError(f"data={cfg['data']['name']}: it is no {DataSource.__module__}.{DataSource.__qualname__}")
    known = source.pinned(data_root())
    if known is source:
        return cfg
    changed = {field.name: getattr(known, field.name) for field in dataclasses.fields(known)}
    return {**cfg, "data": {key: changed.get(key, value) for key, value in cfg["data"].items()}}
