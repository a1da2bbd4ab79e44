"""log p(x) in the units of the data: bits per dimension, and beside what the data were really drawn from."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from elbo_bench.evaluation.evaluator import Evaluation
from elbo_bench.evaluation.metrics import mean_over_examples


def in_bits(evaluation: Evaluation, log_volume: Float[np.ndarray, " N"], num_dims: int) -> Evaluation:
    r"""Return an evaluation that gives log p(x) in bits per dimension too.

    .. math:: -\frac{\log p(x) + \log |dx / d\text{level}|}{D \log 2}

    For levels this is the code length of an example. For a density of dequantised levels it is, in expectation over
    the noise, an upper bound on it: the Jacobian of the logit, if there is one, is accounted for (Theis et al., 2016,
    "A note on the evaluation of generative models", section 3.1). Where log p(x) is a lower bound, this is an upper
    bound.

    Args:
        evaluation: What was measured; without a log p(x) it is returned as it is.
        log_volume: log |dx / d(level)| of each example, in nats; zeros where examples are levels.
        num_dims: D.
    """
    if "log_px" not in evaluation.metrics:
        return evaluation
    per_bit = -1 / (num_dims * math.log(2))
    values = (evaluation.examples["log_px"] + log_volume) * per_bit
    errors = np.abs(evaluation.examples["log_px_se"] * per_bit)
    metric = {**mean_over_examples(values, errors), "unit": "bits/dim"}
    return dataclasses.replace(
        evaluation,
        examples={**evaluation.examples, "bits_per_dim": values, "bits_per_dim_se": errors},
        metrics={**evaluation.metrics, "bits_per_dim": metric},
    )


def beside_truth(evaluation: Evaluation, log_px_true: Float[np.ndarray, " N"]) -> Evaluation:
    """Return an evaluation with the log-density of the distribution that the examples were drawn from.

    No model can have a higher mean log p(x), but by chance; the distance is KL(data ‖ model), paired by example.

    Args:
        evaluation: What was measured; without a log p(x) it is returned as it is.
        log_px_true: The truth for each example, in nats.
    """
    if "log_px" not in evaluation.metrics:
        return evaluation
    exact = np.zeros_like(log_px_true)
    short = log_px_true - evaluation.examples["log_px"]
    return dataclasses.replace(
        evaluation,
        examples={**evaluation.examples, "log_px_true": log_px_true, "log_px_true_se": exact},
        metrics={
            **evaluation.metrics,
            "log_px_true": mean_over_examples(log_px_true, exact),
            "kl_from_truth": mean_over_examples(short, evaluation.examples["log_px_se"]),
        },
    )
