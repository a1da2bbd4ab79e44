"""log p(x) in bits per dimension, and its distance from the log-density of simulated data."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from elbo_bench.evaluation.estimate import Estimate, Scores
from elbo_bench.evaluation.evaluator import Evaluation
from elbo_bench.evaluation.metrics import mean_over_examples
from elbo_bench.metric import Metric


def in_bits(evaluation: Evaluation, log_volume: Float[np.ndarray, " N"], num_dims: int) -> Evaluation:
    r"""Return an evaluation with log p(x) in bits per dimension too.

    .. math:: -\frac{\log p(x) + \log |dx / d\text{level}|}{D \log 2}

    For levels this is the code length of an example. For a density of dequantised levels it is, in expectation over
    the noise, an upper bound on it: the Jacobian of the logit, if there is one, is accounted for (Theis et al., 2016,
    "A note on the evaluation of generative models", section 3.1). Where log p(x) is a lower bound, this is an upper
    bound.

    Args:
        evaluation: The evaluation. It is returned unchanged if it has no log p(x).
        log_volume: log |dx / d(level)| of each example, in nats; zeros where examples are levels.
        num_dims: D.
    """
    if "log_px" not in evaluation.metrics:
        return evaluation
    per_bit, log_px = -1 / (num_dims * math.log(2)), evaluation.scores.estimates["log_px"]
    bits = Estimate((log_px.value + log_volume) * per_bit, np.abs(log_px.se_mc * per_bit))
    label = "bits per dimension: -log2 p(x) / D; of the levels, where data are dequantised: at most"
    metric = mean_over_examples(bits, label, unit="bits/dim", bias="high")
    return _extended(evaluation, {"bits_per_dim": bits}, {"bits_per_dim": metric})


def beside_truth(evaluation: Evaluation, log_px_true: Float[np.ndarray, " N"]) -> Evaluation:
    """Return an evaluation with the log-density of the distribution that the examples were drawn from.

    In expectation no model has a higher log p(x). The difference, paired by example, estimates KL(data ‖ model).

    Args:
        evaluation: The evaluation. It is returned unchanged if it has no log p(x).
        log_px_true: True log-density of each example, in nats.
    """
    if "log_px" not in evaluation.metrics:
        return evaluation
    truth, log_px = Estimate(log_px_true, np.zeros_like(log_px_true)), evaluation.scores.estimates["log_px"]
    short = Estimate(truth.value - log_px.value, log_px.se_mc)
    metrics = {
        "log_px_true": mean_over_examples(truth, "log-density of the distribution that the examples were drawn from"),
        "kl_from_truth": mean_over_examples(
            short, "log_px_true - log p(x), in expectation KL(data || model)", bias="high"
        ),
    }
    return _extended(evaluation, {"log_px_true": truth}, metrics)


def _extended(evaluation: Evaluation, estimates: dict[str, Estimate], metrics: dict[str, Metric]) -> Evaluation:
    scores = Scores(evaluation.scores.estimates | estimates, evaluation.scores.columns)
    return dataclasses.replace(evaluation, scores=scores, metrics=evaluation.metrics | metrics)
