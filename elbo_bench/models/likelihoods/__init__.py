"""Likelihoods: each file is one p(x|z), normalised, on the outputs of any decoder."""
