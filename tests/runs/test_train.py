"""One run from data to record, by the command line: what it writes, how it stops and that it can be repeated."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf
from PIL import Image
from support.command_line import start, training

from elbo_bench.cli import main
from elbo_bench.config import build, check, resolve
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.data.batches import Batch
from elbo_bench.data_info import DataInfo
from elbo_bench.results.record import read_examples, read_result
from elbo_bench.runs import train as train_app
from elbo_bench.training.module import BoundModule
from elbo_bench.training.optimizers import SGD

# A run of a second: 13 batches an epoch.
TINY = ["model.hidden=[16]", "model.latent_dim=4", "evaluation.num_samples=40", "evaluation.num_examples=70"]


train = training(*TINY)


def bytes_of(folder: Path) -> tuple[bytes, bytes, bytes]:
    """What must not depend on how a result came about: metrics, rows, weights."""
    metrics = json.dumps(read_result(folder)["metrics"]).encode()
    weights = folder / "model.safetensors"
    return metrics, (folder / "examples.npz").read_bytes(), weights.read_bytes() if weights.exists() else b""


def test_record_says_what_was_run_and_what_came_out(capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("trainer.max_epochs=2", "objective=iwae", "objective.num_samples=3", "seed=5")
    result = read_result(folder)
    assert folder.name.startswith("digits-mlp-iwae-k3-s5-")
    assert result["run_id"] == folder.name
    assert result["data"]["splits"] == {"train": 1297, "validation": 250, "test": 250}
    assert (result["data"]["split"], result["data"]["num_examples"], result["data"]["observation"]) == (
        "test",
        70,
        "discrete",
    )
    assert result["objective"] == {"name": "iwae", "num_samples": 3, "samples_required": 3, "direction": "lower"}
    assert result["cfg"] == OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert result["compute"]["steps"] == 26
    assert result["compute"]["train_decoder_evaluations"] == 2 * 1297 * 3
    decoded = read_examples(folder)["decoded"]
    assert result["compute"]["evaluate_decoder_evaluations"] == decoded.sum()
    assert decoded.min() > 40  # the encoder's K samples, and the pilot, the fit and the draws of a proposal
    assert (result["checkpoint"]["scored"], result["checkpoint"]["epoch"], result["checkpoint"]["step"]) == (
        "last",
        2,
        26,
    )
    assert result["provenance"]["versions"]["torch"] == torch.__version__
    examples = read_examples(folder)
    assert len(set(examples["id"].tolist())) == 70
    for name in ("log_px", "elbo_gap", "bound", "bound_gap", "rate", "distortion"):
        assert result["metrics"][name]["value"] == pytest.approx(examples[name].mean(), abs=1e-9), name
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    saved = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[f"model.{name}"]) for name, value in weights.items())
    shown = capsys.readouterr().out
    assert "KL(q(z|x) || p(z|x))" in shown
    assert "KL(q(z|x) || p(z))" in shown
    assert str(folder) in shown


def test_training_ascends_the_bound() -> None:
    early, late = (train(f"trainer.max_epochs={epochs}", "optimizer.lr=0.01", runs=str(epochs)) for epochs in (1, 10))
    first, last = (read_result(folder)["metrics"]["log_px"]["value"] for folder in (early, late))
    assert last > first + 1


def test_two_runs_of_one_configuration_give_the_same_bytes() -> None:
    assert bytes_of(train("trainer.max_epochs=2", runs="a")) == bytes_of(train("trainer.max_epochs=2", runs="b"))


def test_an_evaluation_in_the_middle_changes_no_byte() -> None:
    plain = train("trainer.max_epochs=3", "trainer.validate_every=null", runs="a")
    watched = train("trainer.max_epochs=3", "trainer.validate_every=1", runs="b")
    assert bytes_of(plain) == bytes_of(watched)
    assert [entry["epoch"] for entry in read_result(watched)["checkpoint"]["validation"]] == [1, 2, 3]


def test_seed_changes_initialisation_order_and_noise_but_not_the_test_images() -> None:
    one, two = train("trainer.max_steps=1", "seed=0", runs="a"), train("trainer.max_steps=1", "seed=1", runs="b")
    assert bytes_of(one)[2] != bytes_of(two)[2]
    assert read_result(one)["data"]["test_sha256"] == read_result(two)["data"]["test_sha256"]


def test_a_recorded_run_is_not_computed_again_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("trainer.max_epochs=1")
    stamp = (folder / "result.json").stat().st_mtime_ns
    capsys.readouterr()
    train("trainer.max_epochs=1", "trainer.devices=1")  # another placement is the same run
    assert "recorded already" in capsys.readouterr().out
    assert (folder / "result.json").stat().st_mtime_ns == stamp
    before = bytes_of(folder)
    train("trainer.max_epochs=1", "--force")
    assert (folder / "result.json").stat().st_mtime_ns > stamp
    assert bytes_of(folder) == before


def test_what_another_process_recorded_meanwhile_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train("trainer.max_epochs=1")
    cfg = check(resolve([*TINY, "trainer.max_epochs=1"]))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was computed again")

    monkeypatch.setattr("elbo_bench.runs.train.fit", never)
    assert train_app.train(cfg, Catalogue.of(), folder) == read_result(folder)


def test_json_is_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("trainer.max_epochs=1", "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == {**read_result(folder), "folder": str(folder)}


@pytest.mark.parametrize("override", ["trainer.gradient_clip_norm=0.01", "trainer.accumulate_grad_batches=3"])
def test_option_changes_the_training(override: str) -> None:
    plain, changed = train("trainer.max_epochs=1", runs="a"), train("trainer.max_epochs=1", override, runs="b")
    assert bytes_of(plain)[2] != bytes_of(changed)[2]
    # 13 batches make ceil(13 / 3) steps: the last, shorter group steps too.
    assert read_result(changed)["compute"]["steps"] == (5 if "accumulate" in override else 13)


def test_max_steps_stops_within_an_epoch() -> None:
    result = read_result(train("trainer.max_steps=17", "trainer.max_epochs=null"))
    assert result["compute"]["steps"] == 17
    assert result["compute"]["train_decoder_evaluations"] == 1297 + 4 * 100


def test_a_sum_over_every_latent_decodes_them_all_and_the_record_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    latents = ["model.num_variables=2", "model.num_categories=3", "model.hidden=[8]"]
    sizes = ["evaluation.num_samples=40", "evaluation.num_examples=70", "trainer.max_steps=14"]
    assert main(["train", "model=categorical_latent", "objective=enumerated", *latents, *sizes]) == 0
    (folder,) = Path("runs").iterdir()
    result = read_result(folder)
    assert (result["objective"]["samples_required"], result["objective"]["latents"]) == (9, "enumerated")
    assert result["compute"]["train_decoder_evaluations"] == 9 * (1297 + 100)
    shown = capsys.readouterr().out.replace("│", " ")  # a cell of the table may go on in the next row
    assert "enumerated over all 9" in " ".join(shown.split())


@pytest.mark.parametrize("objective", ["iwae", "dreg", "elbo_analytic", "sumo"])
def test_a_gradient_through_labels_is_refused_in_one_line(objective: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "model=categorical_latent", f"objective={objective}"]) == 2
    line = f"elbo-bench: objective {objective} on model categorical_latent: samples of CategoricalVector"
    assert capsys.readouterr().err == (
        f"{line} have no gradient; take one that needs none: enumerated, rws, tvo, vimco\n"
    )
    assert not Path("runs").exists()


def test_best_checkpoint_is_the_one_with_the_highest_validation_bound() -> None:
    # A rate that grows too large ruins the model after a while.
    overrides = ["trainer.checkpoint=best", "optimizer.lr=0.1", "trainer.max_epochs=6"]
    folder = train(*overrides)
    result = read_result(folder)
    history = result["checkpoint"]["validation"]
    best = max(history, key=lambda entry: entry["metrics"]["log_px"])
    assert result["checkpoint"]["scored"] == "best"
    assert (result["checkpoint"]["epoch"], result["checkpoint"]["step"]) == (best["epoch"], best["step"])
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    saved = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[f"model.{name}"]) for name, value in weights.items())


def test_patience_stops_a_run_that_no_longer_improves() -> None:
    result = read_result(train("trainer.patience=2", "optimizer=sgd", "optimizer.lr=1e-12", "trainer.max_epochs=50"))
    history = [entry["metrics"]["log_px"] for entry in result["checkpoint"]["validation"]]
    best = history.index(max(history))
    assert len(history) == best + 3 < 50


def test_schedule_sets_the_learning_rate_of_each_epoch() -> None:
    folder = train("trainer.max_epochs=5", "optimizer.schedule=burda", "optimizer.lr=0.004")
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    # Epochs 0 | 1 2 3 | 4 ...: after five epochs the third stage is on.
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.004 * 10 ** (-2 / 7))


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_precision_is_passed_on(precision: str) -> None:
    folder = train("trainer.max_epochs=1", f"trainer.precision={precision}")
    dtype = torch.float64 if precision == "64-true" else torch.float32
    assert all(value.dtype == dtype for value in safetensors.torch.load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize("name", ["elbo_analytic", "iwae", "dreg", "rws", "vimco", "tvo"])
def test_mixed_precision_leaves_a_gradient_what_it_is(name: str) -> None:
    """A hook that autocast bypassed, or weights that lost their sum, would turn it; rounding turns it by 2 degrees."""
    info = DataInfo((8, 8), torch.full((8, 8), 0.3), 100, "discrete", 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("model", "mlp", info=info, latent_dim=10, hidden=[64])
        x = torch.bernoulli(torch.full((64, 8, 8), 0.3))
    batch = Batch(x, position=0, start=0, total=64, ranks=1, per_epoch=1)
    found = []
    for mixed in (False, True):
        module = BoundModule(model, build("objective", name), SGD())
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = module.training_step(batch, 0)
        assert loss.dtype is torch.float32
        grads = torch.autograd.grad(loss, list(model.parameters()))
        found.append(torch.cat([each.flatten() for each in grads]))
    plain, mixed_precision = found
    assert torch.cosine_similarity(plain, mixed_precision, 0) > 0.999
    assert float(mixed_precision.norm() / plain.norm()) == pytest.approx(1, abs=0.03)


def test_a_loss_that_is_not_finite_ends_with_3_and_its_step_and_no_record(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["train", *TINY, "optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=3"])
    error = capsys.readouterr().err.splitlines()
    assert code == 3
    assert error[-1].startswith("elbo-bench: the loss is not finite at step 2;")
    assert list(Path("runs").rglob("result.json")) == []
    assert list(Path("runs").rglob("*.ckpt")) == []


def test_a_checkpoint_that_is_not_finite_is_never_saved(capsys: pytest.CaptureFixture[str]) -> None:
    # The only step has a finite loss and leaves parameters that are not.
    code = main(
        [
            "train",
            *TINY,
            "trainer.max_steps=1",
            "trainer.validate_every=null",
            "objective=beta",
            "objective.beta=1e30",
            "optimizer=sgd",
            "optimizer.lr=1e20",
        ]
    )
    assert code == 3
    assert "is not finite after step 1" in capsys.readouterr().err
    assert list(Path("runs").rglob("*.ckpt")) == []


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    # Half a minute of training, of which each stop comes a few tenths after a start (seconds if it is busy).
    overrides = [*TINY, "trainer.max_epochs=1000", "trainer.checkpoint_seconds=0.2", "trainer.validate_every=100"]
    calm = start("train", *overrides, runs=tmp_path / "undisturbed")
    _, error = calm.communicate(timeout=300)
    assert calm.returncode == 0, error
    (undisturbed,) = (tmp_path / "undisturbed").iterdir()
    stops = 0
    for attempt in range(6):
        running = start("train", *overrides, runs=tmp_path / "stopped")
        if attempt < 3:
            wait_for(tmp_path / "stopped", newer_than=time.time())
            running.send_signal((signal.SIGTERM, signal.SIGINT, signal.SIGKILL)[attempt])
        _, error = running.communicate(timeout=300)
        if running.returncode == 0:
            break
        assert running.returncode == (-signal.SIGKILL if attempt == 2 else 75), error
        if attempt < 2:
            assert "the same command resumes" in error.splitlines()[-1]
            assert list((tmp_path / "stopped").rglob("result.json")) == []
        stops += 1
    assert stops == 3
    (folder,) = (tmp_path / "stopped").iterdir()
    assert bytes_of(folder) == bytes_of(undisturbed)
    first, second = (read_result(each)["checkpoint"] for each in (undisturbed, folder))
    assert first == second


def wait_for(runs: Path, newer_than: float) -> None:
    """Wait until a run has saved a checkpoint, so that it is in the middle of training."""
    for _ in range(600):
        if any(place.stat().st_mtime > newer_than for place in runs.rglob("last.ckpt")):
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint was saved within 30 s")


def test_evaluate_does_it_again_from_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("trainer.max_epochs=2", "trainer.checkpoint=best")
    assert main(["evaluate", str(folder)]) == 0
    (again,) = (folder / "evaluations").iterdir()
    assert bytes_of(again)[:2] == bytes_of(folder)[:2]
    capsys.readouterr()
    assert main(["evaluate", str(folder / "checkpoints/best.ckpt"), "--json"]) == 0
    from_checkpoint = json.loads(capsys.readouterr().out)
    assert from_checkpoint["metrics"] == read_result(folder)["metrics"]
    assert main(["evaluate", str(folder), "evaluation.num_samples=80", "evaluation.split=validation", "--json"]) == 0
    other: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (other["data"]["split"], other["diagnostics"]["num_samples"]) == ("validation", 80)
    assert other["metrics"]["log_px"] != from_checkpoint["metrics"]["log_px"]
    assert len(list((folder / "evaluations").iterdir())) == 3


def test_a_part_of_a_split_is_not_its_head() -> None:
    ids = read_examples(train("trainer.max_steps=1"))["id"]
    assert len(ids) == 70
    assert ids.max() > 200, "the first rows may be sorted by class"
    assert np.all(np.diff(ids) > 0)


def test_training_closes_the_gap_where_the_family_holds_the_posterior() -> None:
    overrides = ["data=linear_gaussian_data", "model=linear_gaussian", "model.covariance=full", "trainer.max_epochs=20"]
    overrides += ["optimizer.lr=0.05", "optimizer.schedule=cosine", "optimizer.schedule.epochs=20"]
    os.environ["ELBO_BENCH_RUNS"] = "runs"
    try:
        assert main(["train", *overrides, "evaluation.num_samples=200"]) == 0
    finally:
        del os.environ["ELBO_BENCH_RUNS"]
    (folder,) = Path("runs").iterdir()
    metrics = read_result(folder)["metrics"]
    # The family holds the posterior, so training closes the gap.
    assert 0 <= metrics["elbo_gap"]["value"] < 0.1


@pytest.mark.parametrize("num_test", [1, 9, 10, 11, 19, 20, 21])
def test_pictures_are_drawn_of_however_many_test_images_there_are(num_test: int) -> None:
    words = ["data=bars", f"data.num_test={num_test}", "data.num_train=20", "trainer.max_steps=1", "tracking=none"]
    assert main(["train", *words, "model.latent_dim=2", "model.hidden=[3]", "evaluation.num_samples=8"]) == 0
    (folder,) = Path("runs").glob("bars-*")
    with Image.open(folder / "reconstructions.png") as sheet:
        rows, columns = max(1, min(20, num_test) // 10), min(10, num_test)
        assert sheet.size == (columns * 50 - 2, 2 * rows * 50 - 2)  # 8 pixels, six times as large, and two between
