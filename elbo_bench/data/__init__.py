"""Data sets: where they come from, how grey values become observations, and how batches are cut."""
