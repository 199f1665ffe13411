"""Which sites of a guide need a score for their gradient, and that of draws in part pathwise."""

from typing import Any

import pyro.distributions as dist
from pyro.distributions.util import sum_rightmost
from torch import Tensor

from .laws import factors
from .sites import Site


def is_pathwise(site: Site) -> bool:
    """Whether the value of a site, or the term of a factor, comes from reparametrised draws alone.

    Args:
        site: of a guide.

    Raises:
        ValueError: it is a factor that does not say, which Pyro refuses too.
    """
    fn = site.distribution
    if site.kind == "factor" and "has_rsample" not in vars(fn):
        raise ValueError(
            f"Site {site.name!r} is a factor in the guide, and doesn't say where its term comes "
            f"from: write pyro.factor({site.name!r}, ..., has_rsample=True) if from "
            "reparametrised draws alone, has_rsample=False otherwise."
        )
    return fn.has_rsample


def is_pathwise_in_part(site: Site) -> bool:
    """Whether the draws of a site are reparametrised in part, as those of a rejection sampler."""
    of_class = getattr(type(site.base), "score_parts", None)
    return of_class not in (None, dist.Distribution.score_parts)


def rest_of_score(site: Site) -> Tensor:
    """Return the log density (*batch_shape) whose score such a draw's gradient needs besides.

    It is plain, without mask or scale, as that of every draw.
    """
    found: Any = factors(site.distribution)
    while isinstance(found, dist.MaskedDistribution):
        found = factors(found.base_dist)
    score = found.score_parts(site.value).score_function
    rest: Any = sum_rightmost(score, score.dim() - len(site.distribution.batch_shape))
    return rest
