"""Priors: each file is one p(z), with parameters of its own or without."""
