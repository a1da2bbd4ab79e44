"""Configuration of files, the command line, sweeps and records, in one grammar."""

from elbo_bench.config.compose import (
    build,
    check,
    digest,
    identity,
    load_recorded,
    make,
    resolve,
    resolve_group,
    run_id,
    to_yaml,
)

__all__ = [
    "build",
    "check",
    "digest",
    "identity",
    "load_recorded",
    "make",
    "resolve",
    "resolve_group",
    "run_id",
    "to_yaml",
]
