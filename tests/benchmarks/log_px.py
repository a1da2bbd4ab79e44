"""Compare the speed of log p(x) with that of the decoder's matrix products: `python tests/benchmarks/log_px.py [RUN]`.

On one CPU thread, the script divides the time of evaluating a block of MNIST test images by the time of the matrix
products that decoding takes, 50 -> 200 -> 200 -> 784. The products have no bias, no activation, and their memory is
allocated before. Both are timed in turn, so that a busy machine changes their ratio little. Then the script measures,
in processes of their own, how peak memory grows with K, and the time of many images on all cores. RUN is a recorded run
of `model=mlp data=mnist_dynamic`. Without RUN the weights are the initial ones. The images are those of
ELBO_BENCH_DATA. If it is not set, they are random binary images of the same shape.
"""

import argparse
import contextlib
import copy
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import safetensors.torch
import torch
from torch import Tensor, nn

from elbo_bench.data.reading.files import data_root
from elbo_bench.data.sets.mnist_dynamic import MnistDynamic
from elbo_bench.data_info import DataInfo
from elbo_bench.evaluation import evaluate
from elbo_bench.models.mlp import MLP
from elbo_bench.noise import Noise

ENCODER = {"proposal": "encoder", "pilot_share": 0.0, "truth": "importance"}
BLOCK, CHUNK = 32, 64
LIMIT, AIM = 1.5, 1.35


def load(run: str | None, count: int) -> tuple[MLP, Tensor]:
    """Return the model of a run, and test images of MNIST or, without ELBO_BENCH_DATA, random ones."""
    torch.manual_seed(0)
    if os.environ.get("ELBO_BENCH_DATA"):
        data = MnistDynamic().load(data_root())
        info, images = data.info, data.test[:count]
    else:
        info = DataInfo((28, 28), torch.full((28, 28), 0.13), 60_000, "discrete", num_levels=2)
        images = torch.bernoulli(info.train_mean.expand(count, 28, 28))
    model = MLP(info)
    if run is not None:
        model.load_state_dict(safetensors.torch.load_file(Path(run) / "model.safetensors"))
    return model, images


def products(model: MLP, rows: int, chunk: int) -> Callable[[], object]:
    """Return the decoder's products for so many rows, without anything else."""
    weights = [layer.weight.detach() for layer in model.decoder.modules() if isinstance(layer, nn.Linear)]
    inputs = [torch.randn(chunk, weight.shape[1]) for weight in weights]
    outputs = [torch.empty(chunk, weight.shape[0]) for weight in weights]

    def multiply() -> None:
        for start in range(0, rows, chunk):
            count = min(chunk, rows - start)
            for weight, given, found in zip(weights, inputs, outputs, strict=True):
                torch.mm(given[:count], weight.mT, out=found[:count])

    return multiply


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time of a call: that others wait for the same core is not in it."""
    started = time.process_time()
    call()
    return time.process_time() - started


def ratio(model: MLP, x: Tensor, arguments: argparse.Namespace, name: str, keys: dict[str, Any]) -> None:
    """Print the time of log p(x) over that of its decoder's products."""
    samples = arguments.samples
    multiply = products(model, len(x) * samples, len(x) * CHUNK)

    def score() -> object:
        return evaluate(model, x, num_samples=samples, workers=1, **keys)

    multiply(), score()
    pairs = [(seconds(score), seconds(multiply)) for _ in range(arguments.rounds)]
    ratios = sorted(whole / bare for whole, bare in pairs)
    best = min(whole for whole, _ in pairs) / min(bare for _, bare in pairs)
    median = statistics.median(ratios)
    bare = statistics.median(bare for _, bare in pairs)
    weights = sum(p.numel() for p in model.decoder.parameters() if p.dim() == 2)
    gflops = 2 * len(x) * samples * weights / bare / 1e9
    print(
        f"{name:9} K={samples}: log p(x) over products {median:.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f}), "
        f"least over least {best:.2f}; products {bare:.2f} s, {gflops:.0f} GFLOP/s"
    )
    if name == "encoder":
        verdict = "reached" if median <= AIM else "within the limit" if median <= LIMIT else "MISSED"
        print(f"          aim {AIM}, limit {LIMIT}: {verdict}")


@torch.no_grad()
def values(model: MLP, x: Tensor, samples: int) -> None:
    """Compare log p(x) with plain formulas in float64, on the same samples in float32."""
    found = evaluate(model, x, num_samples=samples, workers=1, **ENCODER).examples["log_px"]
    noise = Noise(0, "evaluate", 0).stream()
    exact = copy.deepcopy(model).double()
    single, q = model.posterior(x).base_dist, exact.posterior(x.double()).base_dist
    log_w = []
    for start in range(0, samples, CHUNK):
        z = single.loc + single.scale * noise.normal((min(CHUNK, samples - start), len(x), exact.latent_dim))
        z = z.double()
        logits = exact.decoder(z).squeeze(-1)
        log_p = (logits * x - torch.nn.functional.softplus(logits, threshold=40)).sum((-1, -2))
        log_ratio = (0.5 * ((z - q.loc) / q.scale).square() + q.scale.log() - 0.5 * z.square()).sum(-1)
        log_w.append(log_p + log_ratio)
    reference = (torch.logsumexp(torch.cat(log_w), 0) - math.log(samples)).numpy()
    print(f"values: at most {abs(found - reference).max():.1e} nats from float64 on the same samples")


def child(arguments: argparse.Namespace, **asked: Any) -> dict[str, Any]:
    """Return what a fresh process measured."""
    words = [sys.executable, __file__, "--child", json.dumps(asked), *([arguments.run] if arguments.run else [])]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def answer(arguments: argparse.Namespace) -> None:
    """Evaluate what the parent process asks for, and print seconds and peak memory."""
    asked = json.loads(arguments.child)
    model, images = load(arguments.run, asked["images"])
    started = time.perf_counter()
    evaluate(model, images, num_samples=asked["samples"], workers=asked["workers"], **asked["keys"])
    took = time.perf_counter() - started
    print(json.dumps({"seconds": took, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", metavar="RUN", help="folder of a recorded run")
    parser.add_argument("--samples", type=int, default=5000, help="samples for each image, K (default: %(default)s)")
    parser.add_argument("--images", type=int, default=1000, help="images for all cores (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="times that each is measured (default: %(default)s)")
    parser.add_argument("--defaults", action="store_true", help="measure evaluation's default proposal too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        answer(arguments)
        return
    samples, images = arguments.samples, arguments.images
    model, block = load(arguments.run, BLOCK)
    values(model, block, samples)
    for name, keys in {"encoder": ENCODER, **({"defaults": {}} if arguments.defaults else {})}.items():
        ratio(model, block, arguments, name, keys)
        few, many = (
            child(arguments, images=BLOCK, samples=k, workers=1, keys=keys)["peak"] for k in (samples, 10 * samples)
        )
        print(f"{name:9} peak memory at K={10 * samples} over that at K={samples}: {many / few:.3f}, limit 1.05")
        took = child(arguments, images=images, samples=samples, workers="auto", keys=keys)["seconds"]
        print(f"{name:9} {images:,} images at K={samples} on all cores: {took:.0f} s")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
