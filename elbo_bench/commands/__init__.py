"""Commands: one module for each, which parses nothing itself: it calls what the lower floors offer, and prints."""
