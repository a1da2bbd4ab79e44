"""Evaluation: how far a model's bounds lie from log p(x), with error bars; it knows no objective by name."""

from elbo_bench.evaluation.evaluator import Evaluation, Evaluator
from elbo_bench.evaluation.importance import Importance, evaluate

__all__ = ["Evaluation", "Evaluator", "Importance", "evaluate"]
