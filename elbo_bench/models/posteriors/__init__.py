"""Posteriors: each file is one family of q(z|x), a head on top of any encoder."""
