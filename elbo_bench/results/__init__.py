"""The record of a run: files that are the truth, from which pages, tables and W&B can be rebuilt."""
