"""Networks that the models are composed of."""
