"""Laws of a model as an object: shapes, precision, state, and what its distributions may depend on."""

import copy

import torch
from torch import Tensor

from elbo_bench.conformance.law import LawBroken, law, require_close, skip_if
from elbo_bench.conformance.model_subject import NOISE, sampled
from elbo_bench.conformance.model_subject import ModelSubject as S
from elbo_bench.draws import score
from elbo_bench.noise import Noise

CONTRACT = "LatentVariableModel, draws.py"


def _require_shape(found: torch.Size, expected: tuple[int, ...], what: str) -> None:
    if tuple(found) != expected:
        raise LawBroken(f"{what} is {tuple(found)}, not {expected}")


@law("its distributions have the right shapes", CONTRACT)
def _shapes(subject: S) -> str:
    model, size, samples = subject.model(), len(subject.x), subject.num_samples
    posterior, prior = model.posterior(subject.x), model.prior()
    latent = tuple(prior.event_shape)
    _require_shape(prior.batch_shape, (), "the batch shape of p(z)")
    _require_shape(posterior.batch_shape, (size,), "the batch shape of q(z|x)")
    _require_shape(posterior.event_shape, latent, "the event shape of q(z|x), which must be that of p(z),")
    z = subject.drawn(model).z.detach()
    _require_shape(z.shape, (samples, size, *latent), "the shape of z")
    for lead in ((), (size,), (samples, size), (2, samples, size)):
        some = z[0, 0] if not lead else z[0] if len(lead) == 1 else z.expand(*lead, *latent)
        likelihood = model.likelihood(some)
        _require_shape(likelihood.batch_shape, lead, f"for z of shape {tuple(some.shape)} the batch shape of p(x|z)")
        _require_shape(likelihood.event_shape, subject.kind.shape, "the event shape of p(x|z)")
    return f"data {subject.kind}, K = {samples}, B = {size}, latent {'x'.join(map(str, latent)) or 'a number'}"


@law("log-densities are finite, [K, B]", CONTRACT)
def _finite(subject: S) -> None:
    draws = subject.drawn(subject.model())
    for name in ("log_p_x_given_z", "log_p_z", "log_q_z_given_x"):
        value: Tensor = getattr(draws, name)
        _require_shape(value.shape, (subject.num_samples, len(subject.x)), f"the shape of {name}")
        if not bool(value.isfinite().all()):
            raise LawBroken(f"{name} is not finite: {value.flatten().tolist()[:6]}")
        if value.dtype is not torch.float64:
            raise LawBroken(f"{name} is {value.dtype} in a model of float64")


@law("the densities of a latent do not depend on the other latents", CONTRACT)
def _other_latents(subject: S) -> None:
    model = subject.model()
    draws = subject.drawn(model)
    for row in range(len(subject.x)):
        for sample in range(len(draws.z)):
            z = draws.z[sample, row].detach()
            alone = model.likelihood(z).log_prob(subject.x[row])
            require_close(alone, draws.log_p_x_given_z[sample, row], "log p(x|z) of one z alone", atol=1e-9)
            require_close(model.prior().log_prob(z), draws.log_p_z[sample, row], "log p(z) of one z alone", atol=1e-9)


@law("q(z|x) of an example does not depend on the other examples", CONTRACT)
def _other_examples(subject: S) -> None:
    model = subject.model()
    together = subject.drawn(model)
    for row in range(len(subject.x)):
        x = subject.x[row : row + 1]
        alone = score(model, model.posterior(x), x, together.z[:, row : row + 1].detach())
        for name in ("log_q_z_given_x", "log_p_x_given_z"):
            expected = getattr(together, name)[:, row]
            require_close(getattr(alone, name)[:, 0], expected, f"{name} of one example alone", atol=1e-9)


@law("transport is a function of the noise", "noise.py")
def _transport(subject: S) -> None:
    model = subject.model()
    posterior = model.posterior(subject.x)
    skip_if(not hasattr(posterior, "transport"), "q(z|x) has no transport")
    noise = NOISE.normal((subject.num_samples, *posterior.batch_shape, *posterior.event_shape), dtype=torch.float64)
    first = posterior.transport(noise)
    if first.dtype is not torch.float64:
        raise LawBroken(f"for float64 noise it returns {first.dtype}")
    require_close(posterior.transport(noise), first, "the second time", atol=0.0)
    one_by_one = torch.stack([model.posterior(subject.x).transport(each[None])[0] for each in noise])
    require_close(one_by_one, first, "sample by sample", atol=1e-9)


@law("every parameter has a gradient", "a parameter without a gradient is never trained")
def _gradients(subject: S) -> str:
    model = subject.model()
    draws = subject.drawn(model)
    weights = 1 + Noise(9, "conformance/weights").stream().uniform(draws.log_w.shape)
    (weights * draws.log_w).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    if zero := [name for name, gradient in gradients.items() if gradient is None or not bool(gradient.any())]:
        raise LawBroken(f"log w has no gradient in {', '.join(zero)}")
    if wrong := [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]:
        raise LawBroken(f"the gradient is not finite in {', '.join(wrong)}")
    through = "through the samples" if draws.z.requires_grad else "not through the samples"
    return f"{len(gradients)} parameter tensors, {through}"


@law("its state_dict restores it", "a run is evaluated from its saved weights")
def _state(subject: S) -> None:
    first, second, z = subject.model(), subject.model(seed=1), subject.latents()
    expected = subject.log_w(first, z)
    if torch.equal(subject.log_w(second, z), expected):
        raise LawBroken("its log-weights stay the same when its parameters change")
    second.load_state_dict(first.state_dict())
    require_close(subject.log_w(second, z), expected, "from the saved state", atol=1e-12, rtol=1e-12)


@law("float32 and float64 give the same densities", CONTRACT)
def _precision(subject: S) -> str:
    double, z = subject.model(), subject.latents()
    single = copy.deepcopy(double).float()
    expected = subject.log_w(double, z)
    narrow = subject.log_w(single, z.float() if z.is_floating_point() else z, subject.x.float())
    if narrow.dtype is not torch.float32:
        raise LawBroken(f"in float32 its log-weights are {narrow.dtype}")
    difference = require_close(narrow, expected, "log w in float32", atol=1e-3, rtol=1e-4)
    again = subject.log_w(copy.deepcopy(single).double(), z)
    require_close(again, expected, "log w of a float32 copy in float64", atol=1e-3, rtol=1e-4)
    return f"differ by {difference:.1g} nats"


@law("train() and eval() give the same densities", "one model has one log p(x)")
def _modes(subject: S) -> None:
    model, z = subject.model(), subject.latents()
    require_close(subject.log_w(model.eval(), z), subject.log_w(model.train(), z), "log w after eval()", atol=0.0)


@law("the densities are a function of x and z", "noise.py")
def _global_random_state(subject: S) -> None:
    model, z, x = subject.model(), subject.latents(), subject.x.clone()
    with torch.random.fork_rng([]):
        before = torch.get_rng_state()
        first, second = subject.log_w(model, z), subject.log_w(model, z)
        if not torch.equal(torch.get_rng_state(), before):
            raise LawBroken("its densities use the global random state")
    require_close(second, first, "log w the second time", atol=0.0)
    require_close(x, subject.x, "x afterwards", atol=0.0)


@law("samples of p(x|z) are valid data", "DataInfo, data_info.py")
def _data(subject: S) -> None:
    model, levels = subject.model(), subject.kind.num_levels
    likelihood = model.likelihood(sampled(model.prior(), 4, "latents"))
    x = sampled(likelihood, 3, "observations")
    _require_shape(x.shape, (3, 4, *subject.kind.shape), "the shape of a sample of p(x|z)")
    if levels is not None and bool((wrong := (x != x.floor()) | (x < 0) | (x >= levels)).any()):
        raise LawBroken(f"{float(x[wrong][0]):.6g} is none of the levels 0 .. {levels - 1}")
    log_p = likelihood.log_prob(x)
    if not bool(log_p.isfinite().all()):
        raise LawBroken(f"log p(x|z) of its own samples is {log_p.flatten().tolist()[:6]}")
