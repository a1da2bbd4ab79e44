"""A laboratory of one's own: a bound, a model and a way to train, none of which elbo_bench knows of."""
