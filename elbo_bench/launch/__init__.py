"""Launching: many trials of one sweep file, each a run of its own."""
