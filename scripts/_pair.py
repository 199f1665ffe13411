"""A pair from a command line's arguments, or from a run."""

import argparse
import sys
from collections.abc import Callable
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import Any

import pyro
import torch
from torch import nn

import guides
import inference
import models
from guides import Amortized, AutoAmortized, DiagonalNormal, Encoder, Family, MaskedAmortized
from inference.data import Dataset, Source
from inference.data.files import count_images
from inference.programs import Batch, as_tuple
from inference.references import modules
from inference.runs import Run, restore
from inference.runs.checkpoints import size
from models import VAE, Bernoulli, Decoder, Likelihood, Prior, StandardNormal
from scripts._arguments import Parser, PositiveInt
from scripts._data import records, taken, takes
from scripts._pair_file import programs_of
from scripts._plain import plain
from scripts._recorded_code import refuse_changed_code, remember
from scripts._trial import COPIES, Room, memory, refuse_beyond
from scripts._trust import read_config

Shape = tuple[int, ...]

MADE = {"event_shape", "device", "examples", "masked", "room"}
"""Arguments of `compose` that no command line gives."""

SMALL = 2**30
"""Bytes that a pair of any run may ask for."""


def compose(
    event_shape: Shape,
    device: torch.device,
    examples: Callable[[int], Batch] | None = None,
    masked: bool = False,
    room: int | None = None,
    pair: Path | None = None,
    model: Callable[[Prior, nn.Module, Likelihood], VAE] = VAE,
    prior: Callable[[int], Prior] = StandardNormal,
    decoder: Callable[[int, Shape], Decoder] = models.MLP,
    likelihood: Callable[[Shape], Likelihood] = Bernoulli,
    guide: Callable[[int], Family] = DiagonalNormal,
    encoder: Callable[[Shape, int], Encoder] = guides.MLP,
    amortization: Callable[[nn.Module, Family], Amortized] = Amortized,
    latent_dim: PositiveInt = 50,
) -> tuple[Any, Any]:
    """Make a model and a guide for data of one shape.

    Args:
        event_shape: shape of one datum.
        device: where modules go; plain functions make their tensors where x is.
        examples: returns a batch of that many data, for parts that start from some; None makes up
            values that a checkpoint will replace.
        masked: whether entries of x are missing, so that the encoder sees the mask as well.
        room: bytes that its tensors may have, where that is known.
        pair: Python file that defines pair(event_shape) -> (model, guide), in place of the parts
            below; or model(event_shape) -> model alone, which gets an AutoAmortized guide with the
            encoder and the posterior family below.
        model: generative program p(z) p(x|z).
        prior: distribution p(z) of the latent vector.
        decoder: network from z to the likelihood's parameters.
        likelihood: distribution p(x|z) of a datum, given the decoder's output.
        guide: posterior family of the amortized guide q(z|x).
        encoder: network from x to the family's parameters.
        amortization: guide program that uses the two.
        latent_dim: number of latent coordinates.
    """
    pyro.clear_param_store()  # functions keep their parameters there: forget those of other pairs
    with Room(room):
        if pair is not None:
            programs = programs_of(pair, event_shape)
            if len(programs) == 1:
                (made,) = programs
                _move(made, device)  # it is run
                batch = examples(2) if examples else None  # else the first batch will do
                if batch is not None and not takes(made, len(as_tuple(batch))):
                    batch = as_tuple(batch)[0]
                programs = made, AutoAmortized(made, encoder, batch, family=guide)
        else:
            p_x, q_z = likelihood(event_shape), guide(latent_dim)
            seen = MaskedAmortized.sees(event_shape) if masked else event_shape
            amortized = amortization(encoder(seen, q_z.parameter_dim), q_z)
            p_z = prior(latent_dim)

            def some(count: int) -> torch.Tensor:
                return as_tuple(examples(count))[0] if examples else torch.rand(count, *event_shape)

            p_z.given(amortized.posterior, some)
            if p_z.numbers not in (None, q_z.numbers):
                raise ValueError(
                    f"A draw of {type(p_z).__name__} has {p_z.numbers} numbers for a coordinate, "
                    f"one of {type(q_z).__name__} {q_z.numbers}: take a prior and a family that "
                    "go together, with the same --prior.values and --guide.values."
                )
            decode = decoder(latent_dim * q_z.numbers, p_x.parameter_shape)
            programs = model(p_z, decode, p_x), amortized
            amortized.given(programs[0])
    asked = sum(p.numel() * p.element_size() for each in programs for p in parameters(each))
    refuse_beyond(COPIES * asked, memory(device))
    for program in programs:
        _move(program, device)
    return programs


def parameters(program: Any) -> list[nn.Parameter]:
    """Return the parameters of the modules that a program uses, each once."""
    found = (p for module in modules(program).values() for p in module.parameters())
    return list({id(each): each for each in found}.values())


def _refuse_other_folder(run: Run, source: Source) -> None:
    """Check that a folder of images has as many as the run had, before one is opened."""
    if source.path is None or not source.path.is_dir():
        return
    sizes = run.environment["data"].get("sizes")
    counts = [n for n in (sizes.values() if isinstance(sizes, dict) else ()) if isinstance(n, int)]
    if (there := count_images(source.path, sum(counts))) != sum(counts):
        raise ValueError(
            f"{run.path} was trained on {sum(counts):,} images in {source.path}; there are "
            f"{'more' if there > sum(counts) else f'{there:,}'} now."
        )


def _move(program: Any, device: torch.device) -> None:
    for module in modules(program).values():
        module.to(device)


PARTS: dict[str, tuple[ModuleType, type]] = {
    "--prior": (models, Prior),
    "--likelihood": (models, Likelihood),
    "--decoder": (models, Decoder),
    "--guide": (guides, Family),
    "--encoder": (guides, Encoder),
    "--amortization": (guides, Amortized),
    "--objective": (inference, inference.Objective),
    "--estimator": (inference, inference.Estimator),
    "--kl_weight": (inference, inference.Schedule),
}
"""Arguments that take a part: where the parts are exported, and of which kind they are."""


def parts(flag: str) -> dict[str, type]:
    """Return the exported parts that an argument takes, by name."""
    package, kind = PARTS[flag]
    found = {name: getattr(package, name) for name in package.__all__}
    return {
        name: part
        for name, part in found.items()
        if isinstance(part, type) and issubclass(part, kind) and not isabstract(part)
    }


def first_paragraph(part: type) -> str:
    """Return the first paragraph of a part's docstring, its formulas in plain signs."""
    return plain(" ".join((part.__doc__ or "").split("\n\n")[0].split()))


class ListParts(argparse.Action):
    """Print every part with the first paragraph of its docstring, and exit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "nargs": 0})

    def __call__(self, *_: Any, **__: Any) -> None:
        """Print and exit."""
        for flag in PARTS:
            print(flag)
            for name, part in parts(flag).items():
                print(f"  {name}: {first_paragraph(part)}")
        sys.exit(0)


def add_pair_arguments(parser: Parser) -> None:
    """Give a parser the arguments of `compose`."""
    parser.add_function_arguments(compose, skip=MADE)


def split_arguments(arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split instantiated arguments into those of `compose` and the others."""
    names = compose.__annotations__.keys() - {*MADE, "return"}
    made = dict(arguments)
    return {k: v for k, v in made.items() if k in names}, {
        k: v for k, v in made.items() if k not in names
    }


def room_of(run: Run) -> int:
    """Return how many bytes the tensors of a run's pair may have, by its checkpoint."""
    return SMALL + COPIES * size(run.path / "checkpoint")


def trained(
    run: Run,
    device: torch.device,
    data_root: Path | None,
    trust: Path | None = None,
    pair: Path | None = None,
) -> tuple[Dataset, Any, Any]:
    """Return the data of a run and its pair with the weights that it chose.

    Args:
        run: the run.
        device: where to put them.
        data_root: folder of the data files; None takes the one that the run was made with.
        trust: run whose modules may be imported, see `_trust.read_config`.
        pair: file of its pair; None takes the one that the run recorded.

    Raises:
        ValueError: the pair file or the data have changed, there is no checkpoint, or the run names
            what no run may.
    """
    config = read_config(run, trust, pair)
    parser = Parser(str(run.path / "config.yaml"), ends=False)
    add_pair_arguments(parser)
    parser.add_function_arguments(records, skip={"data_root"})
    chosen, others = split_arguments(config)
    chosen |= {name: others[name] for name in ("data", "view") if name in others}
    parts, asked = split_arguments(parser.instantiate(parser.parse_object(chosen)))
    refuse_changed_code(run, parts["pair"])
    remember(pair)
    _refuse_other_folder(run, asked["data"])
    root = data_root or (Path(root) if (root := config["data_root"]) else None)
    if root is not None and not root.is_dir():
        raise ValueError(f"{root} is not there: name the folder of the data files by --data_root.")
    data = records(**asked, data_root=root).to(device)
    if data.content_hash != (expected := run.environment["data"]["hash"]):
        raise ValueError(
            f"{run.path} was trained on {data.name} with the hash {expected}; the data here have "
            f"{data.content_hash}. Name the folder of its files with --data_root."
        )
    masked = data.train.mask is not None
    room = None if parts["pair"] else room_of(run)
    try:
        model, guide = compose(data.event_shape, device, None, masked, room, **parts)
    except MemoryError as error:
        path = run.path / "config.yaml"
        raise ValueError(f"{path} names a pair that is no checkpoint's here: {error}") from error
    data = taken(data, model, guide)
    restore(run, model, guide, data.valid.batch(slice(2)))
    return data, model, guide
