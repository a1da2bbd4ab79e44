"""MNIST, binarised by Bernoulli draws at every access: the protocol of the importance-weighted autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from elbo_bench.data.pixels import Pixels, TestBinarization
from elbo_bench.data.reading import mnist


@dataclass(frozen=True, kw_only=True)
class MnistDynamic(mnist.MnistSource):
    """MNIST, 28 x 28 pixels. A pixel is 1 with probability grey / 255.

    Training observations are drawn at every access. Validation and test observations are drawn once, with a fixed seed,
    so every run is scored on the same binary images. Burda et al. (2016) drew test observations at every access, too
    (`test_binarization=resample`), which adds noise to a metric but no bias. Their code uses the last 400 training
    images for validation, as the default does here.

    Attributes:
        test_binarization: `fixed`: test observations are the same in every run. `resample`: they are drawn with the
            run's seed.
    """

    test_binarization: TestBinarization = "fixed"

    name = "mnist_dynamic"
    licence = mnist.LICENCE
    citation = mnist.CITATION
    homepage = mnist.HOMEPAGE
    files = mnist.FILES
    test_sha256: ClassVar[Mapping[str, str]] = {
        "dynamic": "8200bf4039f6e9b1fcc9a788896ea0a6db1302ffc35b5054849122663670abd1",
    }

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels("dynamic", test_binarization=self.test_binarization)
