"""`elbo-bench speed`: how fast a configuration trains and is evaluated here, and the ceiling by its matrix products."""

import argparse
import copy
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.data.batches import Batch, TrainingBatches
from elbo_bench.draws import LatentVariableModel, draw
from elbo_bench.evaluation import Evaluator, Importance
from elbo_bench.evaluation.blocks import evaluating, single_threaded
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.noise import Noise
from elbo_bench.numerics import log_mean_exp
from elbo_bench.progress import ProgressLine
from elbo_bench.report.console import console
from elbo_bench.runs.plain_loop import CHUNK, no_plain_loop, plain_loop
from elbo_bench.runs.run import Run
from elbo_bench.training.module import BoundModule
from elbo_bench.training.optimizers import Optimizer

BUDGET = 20.0
"""Seconds of measuring."""

ROUNDS = 9
"""How often each kind of work is measured. The report has the median, the smallest and the largest rate."""

CHUNKS = 16
"""Chunks of samples that one measured evaluation takes."""

AGREEMENT = 0.01
"""Largest difference, in nats, that float32 and the loop's clamped logarithms explain."""

_aten = torch.ops.aten


def run(arguments: argparse.Namespace) -> None:
    """Measure each kind of work in turn, for several rounds, and print the rates with their spread.

    Raises:
        ElboBenchError: See `elbo_bench.cli.main` for what each kind means.
    """
    catalogue = Catalogue.of(arguments.conf)
    cfg = config.check(config.resolve(arguments.overrides, catalogue), catalogue)
    with single_threaded():
        report = measure(Run.build(cfg, catalogue), BUDGET)
    _show(report, as_json=arguments.json)


def measure(run: Run, budget: float) -> dict[str, Any]:
    """Return the rates of evaluation and training of a run. It takes about `budget` seconds of one thread."""
    model = cast("LatentVariableModel", run.model)
    evaluator = _encoder_only(run.evaluator)
    x = run.dataset.observations("test", evaluator.block_size)[0]
    x = x[torch.arange(evaluator.block_size) % len(x)]

    step, decoding, stepping = TrainingStep(run), Products(), Products()
    with evaluating(model), torch.no_grad():
        posterior = model.posterior(x)
        with decoding:
            draw(model, x, evaluator.chunk_size, Noise(0, "speed"), posterior=posterior, reparameterised=False)
        refused = no_plain_loop(model, x)
    with stepping:
        step()
    chunk = evaluator.chunk_size * len(x)
    tasks = {
        "decoder products": Measurement(decoding.multiply, chunk, bool(decoding.flops)),
        "evaluator": Measurement(lambda: evaluator.evaluate(model, x, Request()), evaluator.num_samples * len(x)),
        "plain loop": Measurement(lambda: plain_loop(model, x[:1], CHUNK, Noise(0, "speed")), CHUNK, not refused),
        "step products": Measurement(stepping.multiply, 1, bool(stepping.flops)),
        "training step": Measurement(step, 1),
        "batch": Measurement(step.cut, 1),
    }
    rates = _interleaved({name: task for name, task in tasks.items() if task.possible}, budget)
    flops = {"decoder products": decoding.flops / chunk, "step products": float(stepping.flops)}
    return {
        "data": run.dataset.name,
        "model": run.cfg["model"]["name"],
        "objective": run.cfg["objective"]["name"],
        "batch_size": step.batch_size,
        "samples_per_example": run.latents_decoded,
        "threads": 1,
        "rounds": ROUNDS,
        "rates": {
            "log-weights/s": _rates(rates, flops, "decoder products", ["evaluator", "plain loop"]),
            "steps/s": _rates(rates, flops, "step products", ["training step"]),
        },
        "batch_share_of_step": _spread(
            [
                step_rate / batch_rate
                for step_rate, batch_rate in zip(rates["training step"], rates["batch"], strict=True)
            ]
        ),
        "plain_loop_excluded": refused or None,
        "largest_difference_nats": None if refused else _difference(model, x[:4]),
    }


def _encoder_only(evaluator: Evaluator) -> Importance:
    """Return an evaluator with a fixed number of log-weights: a few chunks of the encoder's samples, on one thread."""
    chosen = evaluator if isinstance(evaluator, Importance) else Importance(block_size=evaluator.block_size)
    return dataclasses.replace(
        chosen,
        num_samples=max(2, CHUNKS * chosen.chunk_size),
        workers=1,
        proposal="encoder",
        pilot_share=0.0,
        target_se=None,
        max_samples=None,
        truth="importance",
    )


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Work to be timed, the units of work in one call, and whether the work exists."""

    call: Callable[[], object]
    units: int
    possible: bool = True


class TrainingStep:
    """A training step of `BoundModule`: cut a batch, compute the loss, backward, optimiser step."""

    def __init__(self, run: Run) -> None:
        optimizer = run.make("optimizer", Optimizer)  # type: ignore[type-abstract]
        model = cast("LatentVariableModel", copy.deepcopy(run.model).train())
        self._module = BoundModule(model, run.objective, optimizer)
        self._optimizer = optimizer.over(each for each in self._module.parameters() if each.requires_grad)
        self.batch_size = min(run.source.batch_size, len(run.dataset.train))
        self._batches = self._endless(run)

    def _endless(self, run: Run) -> Iterator[Batch]:
        batches = TrainingBatches(
            run.dataset.train,
            batch_size=self.batch_size,
            shuffle=run.source.shuffle,
            access=run.dataset.access,
            seed=0,
        )
        for epoch in itertools.count():
            batches.set_epoch(epoch)
            yield from batches

    def cut(self) -> Batch:
        """Return the next batch. Its examples are chosen and, if the data are drawn at every access, drawn."""
        return next(self._batches)

    def __call__(self) -> None:
        """Take the next step."""
        loss = self._module.training_step(self.cut(), 0)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


class Products(TorchDispatchMode):
    """Records the matrix products and convolutions of the block, so that they can be repeated without other work."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, and record it if it is a product."""
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=result)
            if packet in (_aten.addmm, _aten.baddbmm):  # only the product is timed, without its sum
                packet, args, kwargs = (_aten.mm if packet is _aten.addmm else _aten.bmm), args[1:3], {}
            args = tuple(each.detach() if isinstance(each, Tensor) else each for each in args)
            if packet in (_aten.mm, _aten.bmm):
                kwargs = {"out": torch.empty_like(result)}
            self.calls.append(lambda: packet(*args, **(kwargs or {})))
        return result

    def multiply(self) -> None:
        """Repeat the products on the same values, into memory that is allocated already."""
        with torch.no_grad():
            for call in self.calls:
                call()


@torch.inference_mode()
def _difference(model: LatentVariableModel, x: Tensor) -> float:
    """Return the largest difference, in nats, of log p(x) by the loop and by the evaluator, on the same noise."""
    with evaluating(model):
        noise, count = Noise(0, "speed"), 2 * CHUNK
        log_w = draw(model, x, count, noise, reparameterised=False).log_w
        return float((log_mean_exp(log_w) - plain_loop(model, x, count, noise)).abs().max())


def _interleaved(tasks: Mapping[str, Measurement], budget: float) -> dict[str, list[float]]:
    """Return the rates of each task in each round. All tasks take turns, so that a slow period affects all of them."""
    repeats: dict[str, int] = {}
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    with ProgressLine("measuring speed", ROUNDS) as line:
        for name, task in tasks.items():
            task.call()  # start-up is not timed
            repeats[name] = max(1, round(budget / ROUNDS / len(tasks) / max(_seconds(task.call, 1), 1e-6)))
        for done in range(ROUNDS):
            for name, task in tasks.items():
                rates[name].append(task.units * repeats[name] / _seconds(task.call, repeats[name]))
            line.update(done + 1)
    return rates


def _seconds(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - started


def _rates(
    rates: Mapping[str, list[float]], flops: Mapping[str, float], ceiling: str, names: list[str]
) -> dict[str, dict[str, Any]]:
    """Return the spread of some rates, and of their share of a ceiling. A share compares rates of one round."""
    found: dict[str, dict[str, Any]] = {}
    for name in [ceiling, *names]:
        if name in rates:
            found[name] = {"rate": _spread(rates[name])}
            if ceiling in rates:
                shares = [rate / most for rate, most in zip(rates[name], rates[ceiling], strict=True)]
                found[name]["share_of_ceiling"] = _spread(shares)
    if ceiling in found:
        found[ceiling]["flops"] = flops[ceiling]
        found[ceiling]["gflops_per_second"] = _spread([rate * flops[ceiling] / 1e9 for rate in rates[ceiling]])
    return found


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


_MEANING = {
    "decoder products": "the ceiling: the decoder's products alone, {gflops:.0f} GFLOP/s",
    "evaluator": "`evaluate` with the encoder's q(z|x): the curve over K, errors, diagnostics",
    "plain loop": "one x at a time, 100 samples, encoded again for each; sigmoid, binary_cross_entropy",
    "step products": "the ceiling: a step's products alone, {gflops:.0f} GFLOP/s",
    "training step": "batch, draw, objective, backward, optimiser; without Lightning's Trainer",
}


def _show(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=2))  # noqa: T201
        return
    objective = f"{report['objective']} K={report['samples_per_example']}, batch {report['batch_size']}"
    title = f"{report['model']} on {report['data']}, {objective}: one CPU thread, {report['rounds']} rounds"
    table = Table(title=Text(title), title_justify="left")
    for column, justify in {"what": "left", "median": "right", "min - max": "right", "unit": "left"}.items():
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("of ceiling", justify="right")
    table.add_column("what it is")
    for unit, rates in report["rates"].items():
        for name, found in rates.items():
            rate, share = found["rate"], found.get("share_of_ceiling")
            gflops = found.get("gflops_per_second", {"median": 0.0})["median"]
            table.add_row(
                name,
                _number(rate["median"]),
                f"{_number(rate['min'])} - {_number(rate['max'])}",
                unit,
                "" if share is None else f"{share['median']:.1%}",
                Text(_MEANING[name].format(gflops=gflops)),
            )
        table.add_section()
    out = console(150)
    out.print(table)
    share = report["batch_share_of_step"]["median"]
    out.print(Text(f"of a training step, {share:.1%} is cutting the batch, with what is drawn at every access"))
    if report["plain_loop_excluded"]:
        out.print(Text(f"plain loop: excluded, {report['plain_loop_excluded']}"))
    else:
        difference = report["largest_difference_nats"]
        verdict = "they agree" if difference < AGREEMENT else "they do NOT agree"
        out.print(Text(f"loop and evaluator, log p(x) on the same noise: {difference:.1e} nats difference, {verdict}"))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
