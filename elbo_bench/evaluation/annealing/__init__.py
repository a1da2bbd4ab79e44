"""Annealed chains of Hamiltonian Monte Carlo."""
