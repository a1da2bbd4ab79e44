"""Identify a user's own data file by its content, so that the run does not depend on the path."""

import dataclasses

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue, Config
from elbo_bench.data.dataset import DataSource
from elbo_bench.data.reading.files import data_root
from elbo_bench.errors import UsageError


def with_content_hash(cfg: Config, catalogue: Catalogue) -> Config:
    """Return a checked configuration with `data.sha256` filled in if the data are a user's own file.

    Raises:
        UsageError: The file is missing or cannot be read.
    """
    source = config.make("data", cfg["data"], catalogue)
    if not isinstance(source, DataSource):
        raise UsageError(f"data={cfg['data']['name']}: it is no {DataSource.__module__}.{DataSource.__qualname__}")
    known = source.with_content_hash(data_root())
    if known is source:
        return cfg
    changed = {field.name: getattr(known, field.name) for field in dataclasses.fields(known)}
    return {**cfg, "data": {key: changed.get(key, value) for key, value in cfg["data"].items()}}
