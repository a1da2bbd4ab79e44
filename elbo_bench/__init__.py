"""elbo-bench: how tight is a bound on log p(x), and how far can the number be trusted."""

__version__ = "0.1.0"
