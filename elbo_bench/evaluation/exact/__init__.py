"""Exact log p(x)."""
