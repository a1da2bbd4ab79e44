"""Posteriors: each file is one family of q(z|x), a head on the features of any encoder."""
