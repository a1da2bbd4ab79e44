"""The best q of a family for each example, and an encoder that is tuned on the scored examples."""
