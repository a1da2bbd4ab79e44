"""Objectives: one file for each bound on log p(x), computed from `Draws` alone."""
