"""Models: each file is one generative model with its encoder. Models do not depend on objectives."""
