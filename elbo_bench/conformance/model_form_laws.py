"""Laws of a model as an object: shapes, precision, and what its distributions may depend on."""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbo_bench.conformance.law import Law, LawBroken, require_close
from elbo_bench.conformance.model_subject import NOISE, ModelSubject, sampled
from elbo_bench.draws import LatentVariableModel, score
from elbo_bench.noise import Noise

S = ModelSubject


def _require_shape(found: torch.Size, expected: tuple[int, ...], what: str) -> None:
    if tuple(found) != expected:
        raise LawBroken(f"{what} is {tuple(found)}, not {expected}")


def _shapes(subject: S) -> str:
    model, rows, samples = subject.model(), len(subject.x), subject.num_samples
    posterior, prior = model.posterior(subject.x), model.prior()
    latent = tuple(prior.event_shape)
    _require_shape(prior.batch_shape, (), "the batch of p(z)")
    _require_shape(posterior.batch_shape, (rows,), "the batch of q(z|x)")
    _require_shape(posterior.event_shape, latent, "the event of q(z|x), where that of p(z) is another: it")
    z = subject.drawn(model).z.detach()
    _require_shape(z.shape, (samples, rows, *latent), "the shape of z")
    for lead in ((), (rows,), (samples, rows), (2, samples, rows)):
        some = z[0, 0] if not lead else z[0] if len(lead) == 1 else z.expand(*lead, *latent)
        likelihood = model.likelihood(some)
        _require_shape(likelihood.batch_shape, lead, f"for z of {tuple(some.shape)} the batch of p(x|z)")
        _require_shape(likelihood.event_shape, subject.kind.shape, "the event of p(x|z)")
    return f"data {subject.kind}, K = {samples}, B = {rows}, latent {'x'.join(map(str, latent)) or 'a number'}"


def _finite(subject: S) -> None:
    model = subject.model()
    draws = subject.drawn(model)
    for name in ("log_p_x_given_z", "log_p_z", "log_q_z_given_x"):
        value: Tensor = getattr(draws, name)
        _require_shape(value.shape, (subject.num_samples, len(subject.x)), name)
        if not bool(value.isfinite().all()):
            raise LawBroken(f"{name} is not finite: {value.flatten().tolist()[:6]}")
        if value.dtype is not torch.float64:
            raise LawBroken(f"{name} is {value.dtype} in a model of float64")


def _leading_axes(subject: S) -> None:
    model = subject.model()
    draws = subject.drawn(model)
    z = draws.z.detach()
    for row in range(len(subject.x)):
        for sample in range(len(z)):
            alone = model.likelihood(z[sample, row]).log_prob(subject.x[row])
            require_close(alone, draws.log_p_x_given_z[sample, row], "log p(x|z) of one z alone", atol=1e-9)
            require_close(model.prior().log_prob(z[sample, row]), draws.log_p_z[sample, row], "log p(z)", atol=1e-9)


def _neighbours(subject: S) -> None:
    model = subject.model()
    whole = subject.drawn(model)
    for row in range(len(subject.x)):
        x = subject.x[row : row + 1]
        alone = score(model, model.posterior(x), x, whole.z[:, row : row + 1].detach())
        for name in ("log_q_z_given_x", "log_p_x_given_z"):
            require_close(getattr(alone, name)[:, 0], getattr(whole, name)[:, row], f"{name} encoded alone", atol=1e-9)


def _transports(subject: S) -> str | None:
    return None if hasattr(subject.model().posterior(subject.x), "transport") else "q(z|x) has no transport"


def _transport(subject: S) -> None:
    model = subject.model()
    posterior = model.posterior(subject.x)
    shape = (subject.num_samples, *posterior.batch_shape, *posterior.event_shape)
    noise = NOISE.normal(shape, dtype=torch.float64)
    first = posterior.transport(noise)  # type: ignore[attr-defined]
    if first.dtype is not torch.float64:
        raise LawBroken(f"of float64 noise it makes {first.dtype}")
    require_close(posterior.transport(noise), first, "the second time", atol=0.0)  # type: ignore[attr-defined]
    apart = torch.stack([model.posterior(subject.x).transport(each[None])[0] for each in noise])  # type: ignore[attr-defined]
    require_close(apart, first, "sample by sample", atol=1e-9)


def _gradients(subject: S) -> str:
    model = cast("nn.Module", subject.model())
    draws = subject.drawn(cast("LatentVariableModel", model))
    weights = 1 + Noise(9, "conformance/weights").stream().uniform(draws.log_w.shape)
    (weights * draws.log_w).sum().backward()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    idle = [name for name, p in named.items() if p.grad is None or not bool(p.grad.any())]
    if idle:
        raise LawBroken(f"log w has no gradient in {', '.join(idle)}")
    wrong = [name for name, p in named.items() if p.grad is not None and not bool(p.grad.isfinite().all())]
    if wrong:
        raise LawBroken(f"the gradient is not finite in {', '.join(wrong)}")
    through = "through the samples" if draws.z.requires_grad else "not through the samples"
    return f"{len(named)} tensors of parameters, {through}"


def _log_w(subject: S, model: nn.Module, z: Tensor, x: Tensor | None = None) -> Tensor:
    x = subject.x if x is None else x
    made = cast("LatentVariableModel", model)
    with torch.no_grad():
        return score(made, made.posterior(x), x, z).log_w


def _state(subject: S) -> None:
    first, second = cast("nn.Module", subject.model()), cast("nn.Module", subject.model(seed=1))
    z = subject.drawn(cast("LatentVariableModel", first)).z.detach()
    expected = _log_w(subject, first, z)
    if torch.equal(_log_w(subject, second, z), expected):
        raise LawBroken("its log-weights do not depend on its parameters")
    second.load_state_dict(first.state_dict())
    require_close(_log_w(subject, second, z), expected, "from the saved state", atol=1e-12, rtol=1e-12)


def _precision(subject: S) -> str:
    double = cast("nn.Module", subject.model())
    single = copy.deepcopy(double).float()
    z = subject.drawn(cast("LatentVariableModel", double)).z.detach()
    narrow = _log_w(subject, single, z.float() if z.is_floating_point() else z, subject.x.float())
    if narrow.dtype is not torch.float32:
        raise LawBroken(f"in float32 its log-weights are {narrow.dtype}")
    apart = require_close(narrow, _log_w(subject, double, z), "log w in float32", atol=1e-3, rtol=1e-4)
    again = copy.deepcopy(single).double()
    require_close(_log_w(subject, again, z), _log_w(subject, double, z), "copied and widened", atol=1e-3, rtol=1e-4)
    return f"{apart:.1g} nats apart"


def _modes(subject: S) -> None:
    model = cast("nn.Module", subject.model())
    z = subject.drawn(cast("LatentVariableModel", model)).z.detach()
    require_close(_log_w(subject, model.eval(), z), _log_w(subject, model.train(), z), "after eval()", atol=0.0)


def _global_numbers(subject: S) -> None:
    model = subject.model()
    z, x = subject.drawn(model).z.detach(), subject.x.clone()
    with torch.random.fork_rng([]):
        before = torch.get_rng_state()
        values = [_log_w(subject, cast("nn.Module", model), z) for _ in range(2)]
        if not torch.equal(torch.get_rng_state(), before):
            raise LawBroken("scoring draws global random numbers")
    require_close(values[1], values[0], "log w the second time", atol=0.0)
    require_close(x, subject.x, "afterwards x", atol=0.0)


def _data(subject: S) -> None:
    model = subject.model()
    z = sampled(model.prior(), 4, "latents")
    likelihood: Distribution = model.likelihood(z)
    x = sampled(likelihood, 3, "observations")
    _require_shape(x.shape, (3, 4, *subject.kind.shape), "the shape of a sample of p(x|z)")
    if subject.kind.num_levels is not None:
        wrong = (x != x.floor()) | (x < 0) | (x >= subject.kind.num_levels)
        if bool(wrong.any()):
            raise LawBroken(f"{float(x[wrong][0]):.6g} is none of the levels 0 .. {subject.kind.num_levels - 1}")
    log_p = likelihood.log_prob(x)
    if not bool(log_p.isfinite().all()):
        raise LawBroken(f"log p(x|z) of its own samples is {log_p.flatten().tolist()[:6]}")


CONTRACT = "LatentVariableModel, draws.py"
MODEL_FORM_LAWS: tuple[Law[ModelSubject], ...] = (
    Law(name="its distributions have the shapes it promises", source=CONTRACT, check=_shapes),
    Law(name="log-densities are finite, [K, B]", source=CONTRACT, check=_finite),
    Law(name="a latent is scored alone as among others", source=CONTRACT, check=_leading_axes),
    Law(name="an example is encoded alone as among others", source=CONTRACT, check=_neighbours),
    Law(
        name="transport is a function of its noise", source="noise without state", check=_transport, applies=_transports
    ),
    Law(name="every parameter has a gradient", source="a parameter without one is never trained", check=_gradients),
    Law(name="it is its saved state", source="a run is scored from its weights", check=_state),
    Law(name="float32 gives what float64 gives", source=CONTRACT, check=_precision),
    Law(name="training and evaluation score alike", source="one model, one log p(x)", check=_modes),
    Law(name="scoring is a function of x and z", source="noise without state", check=_global_numbers),
    Law(name="samples of p(x|z) are data", source="DataInfo, data_info.py", check=_data),
)
