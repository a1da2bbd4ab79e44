"""The record of a run: files from which every page, table and W&B run can be built again."""
