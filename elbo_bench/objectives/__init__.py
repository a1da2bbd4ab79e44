"""Objectives: each file is one bound on log p(x), a function of `Draws` alone."""
