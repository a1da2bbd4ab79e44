"""Tracking: a mirror of the record in W&B; training never waits for it and never fails because of it."""
