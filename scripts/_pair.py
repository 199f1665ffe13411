"""What the scripts share: their parser, one-line errors, and a pair composed from arguments."""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from torch import nn

from guides import MLP as EncoderMLP
from guides import Amortized, DiagonalNormal, Encoder, Family
from inference import SVI
from inference.data import Dataset
from inference.datasets import load
from inference.fit import restore
from inference.run import Run
from models import MLP as DecoderMLP
from models import VAE, Bernoulli, Decoder, Likelihood, Prior, StandardNormal

Shape = tuple[int, ...]


class Parser(ArgumentParser):
    """A parser that answers a bad argument with one line and exit status 2.

    Args:
        prog: name of the script.
        description: what it does.
    """

    def __init__(self, prog: str = "", description: str | None = None, **kwargs: Any) -> None:
        super().__init__(prog=prog, description=description, **kwargs)

    def error(self, message: str, *_: Any, **__: Any) -> NoReturn:
        """Print the message on one line and exit."""
        sys.exit(_fail(self.prog, message))


@contextmanager
def one_line_errors(prog: str) -> Iterator[None]:
    """Turn what a user can mend (a value, a file) into one line and exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(_fail(prog, str(error)))


def _fail(prog: str, message: str) -> int:
    print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def compose(
    event_shape: Shape,
    pair: Path | None = None,
    model: Callable[[Prior, nn.Module, Likelihood], VAE] = VAE,
    prior: Callable[[int], Prior] = StandardNormal,
    decoder: Callable[[int, Shape], Decoder] = DecoderMLP,
    likelihood: Callable[[Shape], Likelihood] = Bernoulli,
    guide: Callable[[int], Family] = DiagonalNormal,
    encoder: Callable[[Shape, int], Encoder] = EncoderMLP,
    latent_dim: PositiveInt = 50,
) -> tuple[Any, Any]:
    """Make a model and a guide for data of one shape.

    Args:
        event_shape: shape of one datum.
        pair: Python file that defines pair(event_shape) -> (model, guide); the parts below are
            then not used.
        model: generative program p(z) p(x|z).
        prior: p(z).
        decoder: network from z to the likelihood's parameters.
        likelihood: p(x | decoder's output).
        guide: posterior family of the amortized guide q(z|x).
        encoder: network from x to the family's parameters.
        latent_dim: number of latent coordinates.
    """
    if pair is not None:
        return _pair_function(pair)(event_shape)
    p_x = likelihood(event_shape)
    q_z = guide(latent_dim)
    return (
        model(prior(latent_dim), decoder(latent_dim, p_x.parameter_shape), p_x),
        Amortized(encoder(event_shape, q_z.parameter_dim), q_z),
    )


def pair_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments that `compose` takes."""
    names = compose.__annotations__.keys() - {"event_shape", "return"}
    return {name: arguments[name] for name in names}


def pair_source(pair: Path | None) -> dict[str, str] | None:
    """Return what a pair file said when the run was made."""
    if pair is None:
        return None
    source = pair.read_text()
    return {"sha256": hashlib.sha256(source.encode()).hexdigest(), "source": source}


def to_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of that name; ``auto`` is CUDA where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("No CUDA device here: use --device cpu, or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def place(programs: tuple[Any, Any], device: torch.device) -> tuple[Any, Any]:
    """Move those programs that are modules to a device; functions make their tensors there."""
    model, guide = (p.to(device) if isinstance(p, nn.Module) else p for p in programs)
    return model, guide


def trained(run: Run, device: torch.device, data_root: Path | None) -> tuple[Dataset, Any, Any]:
    """Return the data of a run and its pair with the weights that it chose."""
    config = Parser()
    config.add_function_arguments(compose, skip={"event_shape"})
    known = {key: run.config[key] for key in pair_arguments(run.config)}
    arguments = config.instantiate(config.parse_object(known))
    recorded = run.environment.get("pair")
    if recorded and recorded["sha256"] != pair_source(arguments.pair)["sha256"]:  # type: ignore
        raise ValueError(
            f"{arguments.pair} is not what it was when {run.path} was made; its old text is in "
            "environment.json there, under pair.source."
        )
    root = data_root or (Path(run.config["data_root"]) if run.config["data_root"] else None)
    data = load(run.config["data"], root).to(device)
    if data.content_hash != run.environment["data"]["hash"]:
        raise ValueError(
            f"{run.path} was trained on {data.name} with the hash "
            f"{run.environment['data']['hash']}; the one here has {data.content_hash}."
        )
    model, guide = place(compose(data.event_shape, **pair_arguments(arguments)), device)
    restore(run, SVI(model, guide), data.valid.batch(slice(2)))
    return data, model, guide


def _pair_function(path: Path) -> Callable[[Shape], tuple[Any, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: --pair takes a Python file.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file: --pair takes one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # it may import its neighbours
    spec.loader.exec_module(module)
    if not hasattr(module, "pair"):
        raise ValueError(f"{path} defines no function pair(event_shape) -> (model, guide).")
    return module.pair
