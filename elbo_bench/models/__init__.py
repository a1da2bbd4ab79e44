"""Models: each file is one generative model with its encoder; none knows a bound."""
