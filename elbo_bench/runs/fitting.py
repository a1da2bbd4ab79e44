"""Check that the parts of a run fit together: the objective, the model, the data and the evaluator."""

import torch

from elbo_bench.config.catalogue import Catalogue, Config
from elbo_bench.data.access import AsIs
from elbo_bench.data.dataset import Dataset
from elbo_bench.data.examples import chunks
from elbo_bench.draws import LatentVariableModel, NoClosedFormError, NotReparameterisableError, draw_for
from elbo_bench.errors import UsageError
from elbo_bench.evaluation import Evaluator
from elbo_bench.evaluation.blocks import evaluating
from elbo_bench.evaluation.observations import refuse_off_support
from elbo_bench.noise import Noise
from elbo_bench.objectives.base import Objective


@torch.no_grad()
def latents_decoded(cfg: Config, dataset: Dataset, model: LatentVariableModel, objective: Objective) -> int:
    """Return how many latents the objective decodes for one example. It is computed on two examples.

    Raises:
        UsageError: The objective cannot be computed for the model.
    """
    name = f"objective {cfg['objective']['name']} on model {cfg['model']['name']}"
    x = dataset.validation[:2] if len(dataset.validation) else dataset.test[:2]
    try:
        draws = draw_for(objective, model, x, Noise(0, "rehearsal"))
        value = objective(draws)
    except NotReparameterisableError as error:
        raise UsageError(f"{name}: {error}; take one that needs none: {', '.join(_without_gradient())}") from None
    except NoClosedFormError as error:
        raise UsageError(f"{name}: {error}") from None
    if value.shape != (len(x),):
        raise UsageError(f"{name}: its value for {len(x)} examples has the shape {tuple(value.shape)}")
    return len(draws.z)


def check_support(cfg: Config, dataset: Dataset, model: LatentVariableModel) -> None:
    """Check that all data lie on the support of the model's likelihood.

    Raises:
        UsageError: An example does not. The line names it.
    """
    parameter = next(iter(getattr(model, "parameters", list)()), None)
    for split, access in dataset.accesses.items():
        first = 0
        for stored in chunks(getattr(dataset, split)):
            x = access(stored, Noise(0, "support"))
            try:
                with evaluating(model):
                    refuse_off_support(model, x if parameter is None else x.to(parameter), torch.arange(len(x)) + first)
            except ValueError as error:
                raise UsageError(
                    f"data={cfg['data']['name']} on model={cfg['model']['name']}: {split} {error}"
                ) from None
            first += len(x)
            if not isinstance(access, AsIs):
                break  # such an access makes the same kind of observations from all examples


def excluded(objective: Objective, evaluator: Evaluator) -> str:
    """Return why an evaluator cannot evaluate an objective. The text is empty if it can."""
    if objective.scope == "batch" and not evaluator.allows_batch_scope:
        return "its value for an example depends on the other examples of the batch, and evaluation goes by blocks"
    return ""


def _without_gradient() -> list[str]:
    """Return the objectives that need no gradient through the samples, or no samples."""
    catalogue = Catalogue.of()
    targets = {name: catalogue.target("objective", name) for name in catalogue.names("objective")}
    return [
        name
        for name, target in targets.items()
        if not getattr(target, "reparameterised", True) or getattr(target, "latents", "sampled") == "enumerated"
    ]
