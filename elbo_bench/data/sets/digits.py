"""Handwritten digits from scikit-learn: a real data set that needs no download and trains in seconds."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from elbo_bench.data.pixels import LogitAlpha, Pixels, TestBinarization, Values
from elbo_bench.data.reading.grey_source import GreySource
from elbo_bench.errors import UsageError
from elbo_bench.noise import Noise

_IMAGES_SHA256 = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
_SPLITS = (1297, 250, 250)
_TOP = 16


@dataclass(frozen=True, kw_only=True)
class Digits(GreySource):
    """scikit-learn's 1,797 scans of 8 x 8 pixels with grey values 0..16.

    By default grey / 16 is the probability that a pixel is 1. Training observations are drawn at every access.
    Validation and test observations are drawn once, with a fixed seed, so every run is scored on the same binary
    images.
    Results with different `values` are not comparable.

    Reference: Alpaydin, Kaynak, 1998, "Optical recognition of handwritten digits", UCI Machine Learning
    Repository; scikit-learn ships its test half.

    Attributes:
        values: How grey values become observations.
        test_binarization: `fixed`: `dynamic` test observations are the same in every run. `resample`: they are drawn
            with the run's seed.
        logit_alpha: Distance that `logit` keeps from 0 and 1.
    """

    values: Values = "dynamic"
    test_binarization: TestBinarization = "fixed"
    logit_alpha: LogitAlpha = 1e-6

    name = "digits"
    licence = "CC BY 4.0"
    citation = "Alpaydin, Kaynak, Optical recognition of handwritten digits, UCI Machine Learning Repository, 1998"
    homepage = "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits"
    test_sha256: ClassVar[Mapping[str, str]] = {
        "dynamic": "f9ece6f1d6765edcde2778baa5ec3a9e252df8647af242860032e064f3d1035e",
        "fixed": "f9ece6f1d6765edcde2778baa5ec3a9e252df8647af242860032e064f3d1035e",
        "threshold": "66b370c1d80aed36a3706b881bfdd33e70b6013965311127c77eb593a3b5bfb0",
        "levels": "2a74c4a2a542eecf07d30c7149a753eacf27ad727611dd189b5072738bcd7493",
        "dequantised": "8227567d0b776c1395c0d5b3054b015fa9f4d1a217ee2f64ee233d6e829684f1",
        "logit": "243f5afd913cf1a5ff86364bef4d9e06a394e0d459aff0acfc2eda6e03a6cdfd",
    }

    splits = "1297/250/250 by a fixed permutation"

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels(self.values, top=_TOP, test_binarization=self.test_binarization, logit_alpha=self.logit_alpha)

    def sha256s(self) -> dict[str, str]:
        """Return the sha256 of the images, as bytes."""
        return {"sklearn.datasets.load_digits": _IMAGES_SHA256}

    def read(self, root: Path) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002 - no file is read
        """Return the images from scikit-learn.

        Raises:
            UsageError: scikit-learn returns other images than expected.
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
        examples = torch.from_numpy(grey)[order]
        if self.values in ("dynamic", "fixed"):
            examples = examples.float().div(_TOP)  # probabilities; exact in float32
        train, validation, test = examples.split(_SPLITS)
        return train, validation, test
