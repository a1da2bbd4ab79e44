"""Moments of gradient estimators."""
