"""Reports: what was recorded, read back and set side by side; built from files alone."""
