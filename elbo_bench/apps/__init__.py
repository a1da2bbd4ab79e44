"""The commands: each module wires the floors below into one of them."""
