"""Fashion-MNIST: clothes in the format of MNIST, binary, in 256 levels or continuous."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from elbo_bench.data.pixels import LogitAlpha, Pixels, TestBinarization, Values
from elbo_bench.data.reading import mnist

_FOLDERS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
)


@dataclass(frozen=True, kw_only=True)
class FashionMnist(mnist.MnistSource):
    """Fashion-MNIST, 28 x 28 pixels, classes exactly balanced.

    Results with different `values` are not comparable.

    Attributes:
        values: How grey values 0..255 become observations.
        test_binarization: `fixed`: `dynamic` test observations are the same in every run. `resample`: they are drawn
            with the run's seed.
        logit_alpha: Distance that `logit` keeps from 0 and 1.
    """

    values: Values = "dynamic"
    test_binarization: TestBinarization = "fixed"
    logit_alpha: LogitAlpha = 1e-6

    name = "fashion_mnist"
    licence = "MIT"
    citation = "Xiao, Rasul, Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017"
    homepage = "https://github.com/zalandoresearch/fashion-mnist"
    files = (
        mnist.mirrored(
            "fashion_mnist/train-images-idx3-ubyte.gz",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            26_421_880,
            _FOLDERS,
        ),
        mnist.mirrored(
            "fashion_mnist/t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            4_422_102,
            _FOLDERS,
        ),
    )
    test_sha256: ClassVar[Mapping[str, str]] = {
        "dynamic": "21b16a2c783cae22efdf286cbeee699f2dfa88bb295a04bb496111cf3ce50706",
        "fixed": "21b16a2c783cae22efdf286cbeee699f2dfa88bb295a04bb496111cf3ce50706",
        "threshold": "3c085ccc2280342b04caeff28c1212787c0544572cc38cc15be71e4ce3ef44e3",
        "levels": "0169a6f9509eaf39785478798039e49921dcb7db2d1596bc6e6287522b43337e",
        "dequantised": "44488281c87ee796ba48ac64036f2d83fe8bfdf274be508019f31a1f9d5cd2f2",
        "logit": "542e8147c3e2ab5d53fd51a28a2eaa4aaa19497f51e42b5c9ffe2e5cc2e6f2a0",
    }

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels(self.values, test_binarization=self.test_binarization, logit_alpha=self.logit_alpha)
