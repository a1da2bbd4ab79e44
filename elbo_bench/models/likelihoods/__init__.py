"""Likelihoods: each file is one normalised p(x|z), on top of any decoder."""
