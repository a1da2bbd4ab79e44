"""Readers of upstream file formats, and downloads."""
