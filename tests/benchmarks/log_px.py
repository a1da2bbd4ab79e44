"""How close log p(x) comes to the speed of the decoder's products: `python tests/benchmarks/log_px.py [RUN]`.

On one CPU thread, the time of evaluating a block of MNIST test images with K = 5000 over the time of the products of
matrices that decoding takes, 50 -> 200 -> 200 -> 784, bare: no bias, no activation, memory that is there already.
Both are measured in turn, and the ratio is that of neighbours, so that a busy machine disturbs it little. Then, in
processes of their own, peak memory over K, and 1,000 images on all cores. RUN is a recorded run of `model=mlp
data=mnist_dynamic`; without one the weights are the initial ones. Needs ELBO_BENCH_DATA.
"""

import argparse
import contextlib
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

from elbo_bench.data.files import data_root
from elbo_bench.data.mnist_dynamic import MnistDynamic
from elbo_bench.evaluation import evaluate
from elbo_bench.models.mlp import MLP
from elbo_bench.noise import Noise

ENCODER = {"proposal": "encoder", "pilot_share": 0.0, "truth": "importance"}
BLOCK, CHUNK, K = 32, 64, 5000
LIMIT, AIM = 1.5, 1.35


def load(run: str | None) -> tuple[MLP, Tensor]:
    """Return the model of a run and the MNIST test images."""
    data = MnistDynamic().load(data_root())
    torch.manual_seed(0)
    model = MLP(data.info)
    if run is not None:
        model.load_state_dict(safetensors.torch.load_file(Path(run) / "model.safetensors"))
    return model, data.test


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


def ratio(model: MLP, x: Tensor, rounds: int, ways: dict[str, dict[str, Any]]) -> None:
    """Print the time of log p(x) over that of its decoder's products."""
    multiply = products(model, BLOCK * K, BLOCK * CHUNK)
    for name, keys in ways.items():

        def score(keys: dict[str, Any] = keys) -> object:
            return evaluate(model, x, num_samples=K, workers=1, **keys)

        multiply(), score()
        pairs = [(seconds(score), seconds(multiply)) for _ in range(rounds)]
        ratios = sorted(whole / bare for whole, bare in pairs)
        best = min(whole for whole, _ in pairs) / min(bare for _, bare in pairs)
        median = statistics.median(ratios)
        bare = statistics.median(bare for _, bare in pairs)
        gflops = 2 * BLOCK * K * sum(p.numel() for p in model.decoder.parameters() if p.dim() == 2) / bare / 1e9
        print(
            f"{name:9} K={K}: log p(x) over products {median:.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f}), "
            f"least over least {best:.2f}; products {bare:.2f} s, {gflops:.0f} GFLOP/s"
        )
        if name == "encoder":
            verdict = "reached" if median <= AIM else "within the limit" if median <= LIMIT else "MISSED"
            print(f"          aim {AIM}, limit {LIMIT}: {verdict}")


@torch.no_grad()
def values(model: MLP, x: Tensor) -> None:
    """Compare log p(x) with plain formulas in float64, on the same samples in float32."""
    found = evaluate(model, x, num_samples=K, workers=1, **ENCODER).examples["log_px"]
    noise = Noise(0, "evaluate", 0).stream()
    exact = MLP(MnistDynamic().load(data_root()).info)
    exact.load_state_dict(model.state_dict())
    exact.double()
    single, q = model.posterior(x).base_dist, exact.posterior(x.double()).base_dist
    log_w = []
    for start in range(0, K, CHUNK):
        z = single.loc + single.scale * noise.normal((min(CHUNK, K - start), len(x), exact.latent_dim))
        z = z.double()
        logits = exact.decoder(z).logits
        log_p = (logits * x - torch.nn.functional.softplus(logits, threshold=40)).sum((-1, -2))
        log_ratio = (0.5 * ((z - q.loc) / q.scale).square() + q.scale.log() - 0.5 * z.square()).sum(-1)
        log_w.append(log_p + log_ratio)
    reference = (torch.logsumexp(torch.cat(log_w), 0) - math.log(K)).numpy()
    print(f"values: at most {abs(found - reference).max():.1e} nats from float64 on the same samples")


def child(arguments: argparse.Namespace, **asked: Any) -> dict[str, Any]:
    """Return what a fresh process measured."""
    words = [sys.executable, __file__, "--child", json.dumps(asked), *([arguments.run] if arguments.run else [])]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def answer(arguments: argparse.Namespace) -> None:
    """Evaluate what the parent asks for, and say what it took."""
    asked = json.loads(arguments.child)
    model, test = load(arguments.run)
    started = time.perf_counter()
    evaluate(model, test[: asked["images"]], num_samples=asked["K"], workers=asked["workers"], **asked["keys"])
    took = time.perf_counter() - started
    print(json.dumps({"seconds": took, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", metavar="RUN", help="folder of a recorded run")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--defaults", action="store_true", help="measure evaluation's default proposal too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        answer(arguments)
        return
    model, test = load(arguments.run)
    values(model, test[:BLOCK])
    ways = {"encoder": ENCODER, **({"defaults": {}} if arguments.defaults else {})}
    ratio(model, test[:BLOCK], arguments.rounds, ways)
    for name, keys in ways.items():
        few, many = (child(arguments, images=BLOCK, K=k, workers=1, keys=keys)["peak"] for k in (K, 10 * K))
        print(f"{name:9} peak memory at K={10 * K} over that at K={K}: {many / few:.3f}, limit 1.05")
        whole = child(arguments, images=1000, K=K, workers="auto", keys=keys)["seconds"]
        print(f"{name:9} 1,000 images at K={K} on all cores: {whole:.0f} s")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
