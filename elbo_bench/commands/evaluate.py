"""`elbo-bench evaluate`: evaluate a recorded run again, without training."""

import argparse

from elbo_bench.config.catalogue import Catalogue
from elbo_bench.config.overrides import parse_overrides
from elbo_bench.ranks import is_first
from elbo_bench.report.result_table import show_result
from elbo_bench.results.record import RESULT, read_result
from elbo_bench.runs.evaluate import evaluate_again, find_run, recorded_configuration, refuse_training, target_of
from elbo_bench.runs.run import Run, discard_blocks


def run(arguments: argparse.Namespace) -> None:
    """Evaluate a run's weights, or a checkpoint, and write the record below the run's folder.

    Raises:
        ElboBenchError: See `elbo_bench.cli.main` for what each kind means.
    """
    folder, checkpoint = find_run(arguments.run)
    recorded = read_result(folder)
    catalogue = Catalogue.of(arguments.conf)
    given = parse_overrides(arguments.overrides, catalogue)
    refuse_training(given)
    cfg, catalogue = recorded_configuration(recorded, given, catalogue, trust=arguments.trust)
    target = target_of(folder, cfg, checkpoint)
    if (target / RESULT).exists() and not arguments.force:
        note = "recorded already, nothing was computed; --force computes it again"
        show_result(read_result(target), target, as_json=arguments.json, note=note)
        return
    run_again = Run.build(cfg, catalogue)
    if arguments.force and is_first():
        discard_blocks(target)  # before the other ranks start, which save blocks of their own
    result = evaluate_again(run_again, folder, target, checkpoint=checkpoint)
    if result is not None:
        show_result(result, target, as_json=arguments.json)
