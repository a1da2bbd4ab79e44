"""Evaluation: how far a model's bounds lie from log p(x), with error bars; it knows no objective by name."""
