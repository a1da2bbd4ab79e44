"""MNIST, binarised by a threshold: no random draws."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from elbo_bench.data.pixels import Pixels
from elbo_bench.data.reading import mnist


@dataclass(frozen=True, kw_only=True)
class MnistThreshold(mnist.MnistSource):
    """MNIST, 28 x 28 pixels. A pixel is 1 if its grey value is more than 127.

    Results are not comparable with `mnist_dynamic` and `mnist_static`. This task is easier, since observations have no
    noise from binarisation.
    """

    name = "mnist_threshold"
    licence = mnist.LICENCE
    citation = mnist.CITATION
    homepage = mnist.HOMEPAGE
    files = mnist.FILES
    test_sha256: ClassVar[Mapping[str, str]] = {
        "threshold": "7ec2f4edb0d98617b9a031724c620055352633d7591f829db03d9d45d60638e2",
    }

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels("threshold")
