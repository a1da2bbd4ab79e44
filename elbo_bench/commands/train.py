"""`elbo-bench train`: one run, from data to a record."""

import argparse

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.evaluation.blocks import rank_and_world_size
from elbo_bench.files import runs_root
from elbo_bench.report.result_table import show_result
from elbo_bench.results.further import missing_evaluations
from elbo_bench.results.record import RESULT, read_result
from elbo_bench.runs.content_hash import with_content_hash
from elbo_bench.runs.evaluate import evaluate_further
from elbo_bench.runs.train import train


def run(arguments: argparse.Namespace) -> None:
    """Train, evaluate and record, or show what is recorded already.

    Raises:
        ElboBenchError: See `elbo_bench.cli.main` for what each kind means.
    """
    catalogue = Catalogue.of(arguments.conf)
    cfg = config.check(config.resolve(arguments.overrides, catalogue), catalogue)
    if arguments.print_config:
        print(config.to_yaml(cfg), end="")  # noqa: T201
        return
    cfg = with_content_hash(cfg, catalogue)
    folder = runs_root() / config.run_id(cfg)
    if (folder / RESULT).exists() and not arguments.force:
        note = "recorded already, nothing was computed; --force computes it again"
        if missing_evaluations(folder, cfg["then_evaluate"]):
            evaluate_further(cfg, catalogue, folder)
            if rank_and_world_size()[0]:
                return
            note = "recorded already; only further evaluations were computed"
        show_result(read_result(folder), folder, as_json=arguments.json, note=note)
        return
    result = train(cfg, catalogue, folder, force=arguments.force)
    if result is not None:
        show_result(result, folder, as_json=arguments.json)
