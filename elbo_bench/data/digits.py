"""Handwritten digits that come with scikit-learn: a real data set that needs no download and trains in seconds."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from elbo_bench.data.batches import binarize
from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.errors import UsageError
from elbo_bench.noise import Noise

_IMAGES_SHA256 = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
_SPLITS = (1297, 250, 250)


@dataclass(frozen=True, kw_only=True)
class Digits(DataSource):
    """scikit-learn's 1,797 scans of 8 x 8 pixels with grey values 0..16; grey / 16 is the probability of ink.

    Training observations are drawn anew at every access; validation and test observations were drawn once, by
    the protocol and not by the run, so every run is scored on the same binary images.

    Reference: Alpaydin, Kaynak, 1998, "Optical recognition of handwritten digits", UCI Machine Learning
    Repository; scikit-learn ships its test half.
    """

    observation: ClassVar[Literal["discrete", "continuous"]] = "discrete"
    licence: ClassVar[str] = "CC BY 4.0"
    citation: ClassVar[str] = (
        "Alpaydin, Kaynak, Optical recognition of handwritten digits, UCI Machine Learning Repository, 1998"
    )

    @property
    def protocol(self) -> str:
        """One line that says what the splits are and how values become observations."""
        return (
            "1297/250/250 by a fixed permutation; a pixel is 1 with probability grey/16: "
            "train drawn at every access, validation and test drawn once (data seed 0)"
        )

    def load(self, root: Path) -> Dataset:  # noqa: ARG002 - the images come with scikit-learn, not from a folder
        """Read the images out of scikit-learn.

        Raises:
            UsageError: scikit-learn ships other images than these.
        """
        from sklearn.datasets import load_digits  # its import takes a second

        grey = np.ascontiguousarray(load_digits().images, dtype=np.uint8)
        found = hashlib.sha256(grey.tobytes()).hexdigest()
        if found != _IMAGES_SHA256:
            raise UsageError(
                "scikit-learn's load_digits does not give the images of this benchmark: "
                f"sha256 {found[:16]}..., expected {_IMAGES_SHA256[:16]}..."
            )
        order = Noise(seed=0, purpose="digits/split").permutation(len(grey))
        train, *held_out = torch.from_numpy(grey)[order].float().div(16).split(_SPLITS)
        validation, test = (
            binarize(values, Noise(seed=0, purpose="digits/binarize", position=position).uniform(values.shape))
            for position, values in enumerate(held_out)
        )
        return Dataset(
            name="digits",
            protocol=self.protocol,
            observation=self.observation,
            num_levels=2,
            train=train,
            validation=validation,
            test=test,
            binarize=True,
            files={"sklearn.datasets.load_digits": found},
        )
