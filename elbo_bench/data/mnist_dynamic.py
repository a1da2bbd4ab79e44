"""MNIST whose pixels are drawn from their grey values: the protocol of the importance-weighted autoencoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from elbo_bench.data.batches import binarize
from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.data.files import DataFile
from elbo_bench.data.idx import parse_idx
from elbo_bench.noise import Noise

_TRAIN = DataFile(
    "mnist/train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
)
_TEST = DataFile("mnist/t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6")


@dataclass(frozen=True, kw_only=True)
class MnistDynamic(DataSource):
    """MNIST, 28 x 28 pixels; grey / 255 is the probability of ink.

    Training observations are drawn anew at every access. Validation and test observations were drawn once, by
    the protocol and not by the run, so every run is scored on the same binary images; Burda et al. (2016) drew
    their test set at every access too, which adds noise to a score and no bias.

    Attributes:
        num_validation: Last images of the training file that are kept for validation; the code of Burda et al.
            (2016) keeps 400.
    """

    num_validation: Annotated[int, Field(ge=1, le=10_000)] = 400

    observation: ClassVar[Literal["discrete", "continuous"]] = "discrete"
    licence: ClassVar[str] = "CC BY-SA 3.0"
    citation: ClassVar[str] = (
        "LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, "
        "Proc. IEEE 86(11), 1998"
    )
    files: ClassVar[tuple[DataFile, ...]] = (_TRAIN, _TEST)

    @property
    def protocol(self) -> str:
        """One line that says what the splits are and how values become observations."""
        return (
            f"{60_000 - self.num_validation}/{self.num_validation}/10000, validation is the end of the training file; "
            "a pixel is 1 with probability grey/255: "
            "train drawn at every access, validation and test drawn once (data seed 0)"
        )

    def load(self, root: Path) -> Dataset:
        """Read the two image files below `root`; the rows keep their order.

        Raises:
            UsageError: A file is missing or is not the official one.
        """
        train, validation = _grey(_TRAIN, 60_000, root).split([60_000 - self.num_validation, self.num_validation])
        validation, test = (
            binarize(grey, Noise(seed=0, purpose="mnist_dynamic/binarize", position=position).uniform(grey.shape))
            for position, grey in enumerate((validation, _grey(_TEST, 10_000, root)))
        )
        return Dataset(
            name="mnist_dynamic",
            protocol=self.protocol,
            observation=self.observation,
            num_levels=2,
            train=train,
            validation=validation,
            test=test,
            binarize=True,
            files={file.path: file.sha256 for file in self.files},
        )


def _grey(file: DataFile, num_images: int, root: Path) -> Float[Tensor, "N 28 28"]:
    images = parse_idx(file.read(root), (num_images, 28, 28), root / file.path)
    return torch.from_numpy(images.copy()).float().div_(255)  # a copy, for torch has no read-only tensors
