"""Priors: each file is one family of p(z)."""
