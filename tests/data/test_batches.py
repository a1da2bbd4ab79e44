"""Laws of the training order: every example once, the same over any number of ranks and after any stop."""

import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from elbo_bench.data.access import AsIs, Binarise
from elbo_bench.data.batches import Batch, TrainingBatches
from elbo_bench.errors import RunFailedError

# (N, batch size): a last batch that is full, one that is not, one of a single row, one batch, batches of one.
SIZES = [(12, 4), (11, 4), (9, 4), (5, 10), (3, 1)]


def rows(num_train: int) -> torch.Tensor:
    """Examples of shape (2,) that can be told apart."""
    return torch.arange(num_train * 2, dtype=torch.float32).view(num_train, 2)


def probabilities(num_train: int, *shape: int) -> torch.Tensor:
    return torch.rand(num_train, *shape, generator=torch.Generator().manual_seed(0))


def make(train: torch.Tensor, **options: Any) -> TrainingBatches:
    defaults: dict[str, Any] = {"batch_size": 4, "shuffle": True, "access": AsIs(), "seed": 3}
    return TrainingBatches(train, **(defaults | options))


def epoch_of(batches: TrainingBatches, epoch: int) -> list[Batch]:
    batches.set_epoch(epoch)
    return list(batches)


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        (a.position, a.start, a.total) == (b.position, b.start, b.total) and torch.equal(a.x, b.x)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("num_train", "batch_size"), SIZES)
def test_every_example_comes_exactly_once_an_epoch(num_train: int, batch_size: int, shuffle: bool) -> None:
    train = rows(num_train)
    batches = make(train, batch_size=batch_size, shuffle=shuffle)
    for epoch in range(3):
        seen = epoch_of(batches, epoch)
        assert len(seen) == len(batches)
        assert all(batch.total == len(batch.x) == batch_size for batch in seen[:-1])
        everything = torch.cat([batch.x for batch in seen])
        assert torch.equal(everything[everything[:, 0].argsort()], train)
        if not shuffle:
            assert torch.equal(everything, train)


def test_positions_count_the_batches_since_training_began() -> None:
    batches = make(rows(11))
    positions = [batch.position for epoch in range(3) for batch in epoch_of(batches, epoch)]
    assert positions == list(range(9))


def test_order_is_a_function_of_seed_and_epoch_alone() -> None:
    train = rows(64)
    first, other_epoch = epoch_of(make(train), 0), epoch_of(make(train), 1)
    other_seed = epoch_of(make(train, seed=4), 0)
    batches = make(train)
    assert same(epoch_of(batches, 1), other_epoch)  # whatever came before
    assert same(epoch_of(batches, 0), first)
    assert not torch.equal(first[0].x, other_epoch[0].x)
    assert not torch.equal(first[0].x, other_seed[0].x)
    # The order does not depend on how it is cut.
    assert torch.equal(
        torch.cat([batch.x for batch in epoch_of(make(train, batch_size=7), 0)]),
        torch.cat([batch.x for batch in first]),
    )


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize(("num_train", "batch_size"), SIZES)
def test_ranks_together_see_the_global_batch_bit_for_bit(
    num_train: int, batch_size: int, drawn: bool, world_size: int
) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "access": Binarise() if drawn else AsIs()}
    train = probabilities(num_train, 3, 2)
    whole = epoch_of(make(train, **options), 1)
    parts = [epoch_of(make(train, rank=rank, world_size=world_size, **options), 1) for rank in range(world_size)]
    for index, batch in enumerate(whole):
        of_ranks = [part[index] for part in parts]
        assert {(part.position, part.total) for part in of_ranks} == {(batch.position, batch.total)}
        assert [part.start for part in of_ranks] == [batch.total * rank // world_size for rank in range(world_size)]
        assert torch.equal(torch.cat([part.x for part in of_ranks]), batch.x)


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize(("num_train", "batch_size"), SIZES)
def test_whole_gives_every_rank_all_of_each_batch_bit_for_bit(num_train: int, batch_size: int, drawn: bool) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "access": Binarise() if drawn else AsIs()}
    train = probabilities(num_train, 3, 2)
    alone = epoch_of(make(train, **options), 1)
    for rank in range(3):
        together = epoch_of(make(train, rank=rank, world_size=3, full_batches=True, **options), 1)
        assert same(together, alone)
        assert {batch.ranks for batch in together} == {1}
    with pytest.raises(ValueError, match="rank 3 is none of 3"):
        make(train, rank=3, world_size=3, full_batches=True)


def test_a_batch_knows_its_place_in_training_and_over_how_many_ranks_it_is_spread() -> None:
    batches = make(rows(11), rank=1, world_size=2)
    seen = [batch for epoch in range(3) for batch in epoch_of(batches, epoch)]
    assert [batch.epoch for batch in seen] == [position / 3 for position in range(9)]
    assert {batch.ranks for batch in seen} == {2}


def test_two_accesses_draw_different_observations() -> None:
    batches = make(probabilities(8, 50), shuffle=False, access=Binarise())
    first, second = epoch_of(batches, 0), epoch_of(batches, 1)
    assert all(not torch.equal(a.x, b.x) for a, b in zip(first, second, strict=True))
    assert same(epoch_of(batches, 0), first)
    other_seed = epoch_of(make(probabilities(8, 50), shuffle=False, access=Binarise(), seed=4), 0)
    assert not torch.equal(first[0].x, other_seed[0].x)


def test_observations_have_the_mean_of_their_probabilities() -> None:
    train = probabilities(200, 10, 10)
    batches = make(train, batch_size=32, shuffle=False, access=Binarise())
    drawn = torch.stack([torch.cat([batch.x for batch in epoch_of(batches, epoch)]) for epoch in range(10)]).double()
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    exact = train.double()
    z = (drawn - exact).sum() / (10 * exact * (1 - exact)).sum().sqrt()
    assert abs(z) < 5.4  # P = 7e-8
    # Pixel by pixel, so that a draw that forgets which pixel it is for is noticed: chi-square over 20,000 pixels.
    per_pixel = (drawn.mean(0) - exact).square() * 10 / (exact * (1 - exact)).clamp(min=1e-9)
    informative = (exact > 0.1) & (exact < 0.9)
    count = informative.sum()
    # The square of a standardised mean of ten draws has mean 1 and variance below 2.8 there.
    assert abs(per_pixel[informative].mean() - 1) < 5.4 * (2.8 / count) ** 0.5


def test_certain_pixels_never_change() -> None:
    certain = torch.tensor([0.0, 1.0]).expand(1000, 2).contiguous()
    for batch in epoch_of(make(certain, access=Binarise(), shuffle=False), 0):
        assert torch.equal(batch.x, certain[: len(batch.x)])


@pytest.mark.parametrize("stop", [0, 1, 2, 4, 5, 7, 8])  # an epoch has 3 batches; none stops at its end
def test_a_stopped_run_goes_on_with_the_same_batches(stop: int) -> None:
    train = probabilities(11, 6)

    def rest(batches: TrainingBatches, epochs: range) -> Iterator[Batch]:
        for epoch in epochs:
            batches.set_epoch(epoch)
            yield from batches

    whole = list(rest(make(train, access=Binarise()), range(4)))
    stopped = make(train, access=Binarise())
    handed_out = list(itertools.islice(rest(stopped, range(4)), stop))
    state = json.loads(json.dumps(stopped.state_dict()))

    resumed = make(train, access=Binarise())
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert same(handed_out + list(rest(resumed, range(stop // 3, 4))), whole)

    unnamed = make(train, access=Binarise())  # no one names the epoch: it is the state's
    unnamed.load_state_dict(state)
    assert same(list(unnamed), whole[stop : 3 * (stop // 3 + 1)])


def test_a_loaded_state_holds_for_its_epoch_and_for_one_iteration() -> None:
    train = rows(11)
    resumed = make(train)
    resumed.load_state_dict({"epoch": 1, "batch": 2})
    assert same(epoch_of(resumed, 2), epoch_of(make(train), 2))
    resumed.load_state_dict({"epoch": 1, "batch": 2})
    assert same(epoch_of(resumed, 1), epoch_of(make(train), 1)[2:])
    assert same(epoch_of(resumed, 1), epoch_of(make(train), 1))


def test_the_epoch_is_read_at_the_first_batch() -> None:
    batches = make(rows(11))
    early = iter(batches)
    batches.sampler.set_epoch(5)
    assert next(early).position == 15


@pytest.mark.parametrize("state", [{"epoch": 0, "batch": 3}, {"epoch": -1, "batch": 0}, {"epoch": 0, "batch": -1}])
def test_a_state_of_other_batches_is_refused(state: dict[str, int]) -> None:
    with pytest.raises(RunFailedError, match=r"^the checkpoint stopped after batch .* but an epoch has 3 batches$"):
        make(rows(11)).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batches of 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 is none of 2"),
        ({"rank": -1}, "rank -1"),
    ],
)
def test_impossible_cuts_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(rows(4), **options)


def test_no_example_is_refused() -> None:
    with pytest.raises(ValueError, match="0 examples"):
        make(torch.zeros(0, 2))


def test_lightning_moves_a_batch_between_devices() -> None:
    from lightning.fabric.utilities import move_data_to_device

    batch = next(iter(make(rows(11), rank=1, world_size=2)))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved.x.device.type == "meta"
    assert (moved.position, moved.start, moved.total) == (batch.position, batch.start, batch.total) == (0, 2, 4)
    assert batch.x.device.type == "cpu"


def lightning_run(folder: Path | None = None, checkpoint: Path | None = None) -> list[tuple[int, float]]:
    """The batches that a run of two epochs trains on; with a folder, it saves there whenever it can."""
    import lightning.pytorch as pl

    seen: list[tuple[int, float]] = []

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch: Batch) -> torch.Tensor:
            code = (batch.x.flatten() * torch.arange(batch.x.numel())).sum()
            seen.append((batch.position, code.item()))
            return self.weight * code

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    class Save(pl.Callback):
        def save(self, trainer: pl.Trainer, where: str) -> None:
            if folder is not None:
                trainer.save_checkpoint(folder / f"{where}-{trainer.global_step}.ckpt")

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            self.save(trainer, "batch")

        def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            self.save(trainer, "epoch")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own advice
        trainer = pl.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Save()],
        )
        batches = make(probabilities(11, 6), access=Binarise())
        trainer.fit(Module(), batches, ckpt_path=None if checkpoint is None else str(checkpoint))
    return seen


def test_lightning_resumes_after_any_batch_with_the_same_batches(tmp_path: Path) -> None:
    whole = lightning_run(tmp_path)
    assert [position for position, _ in whole] == list(range(6))
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) == 6 + 2
    for checkpoint in checkpoints:
        steps = int(checkpoint.stem.partition("-")[2])
        if checkpoint.stem in ("batch-3", "batch-6"):  # within an epoch's end, where a run of ours never stops
            with pytest.raises(RunFailedError, match="the checkpoint stopped after batch 3"):
                lightning_run(checkpoint=checkpoint)
            continue
        assert lightning_run(checkpoint=checkpoint) == whole[steps:], checkpoint.stem
