"""Train a model/guide pair on a data set and record its ELBO trace in a run directory.

Every argument is kept in RUN/config.yaml: --config RUN/config.yaml --run ANOTHER runs it again,
--resume RUN goes on with it.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pyro
from _pair import Parser, compose, one_line_errors, pair_arguments, pair_source, place, to_device
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from inference import SVI, Constant, Elbo, Objective, Schedule
from inference.check import check
from inference.datasets import load
from inference.figures import save_trace
from inference.fit import Interrupted, fit
from inference.run import Run, environment


def train(
    config: str,
    parts: dict[str, Any],
    resumed: bool,
    data: str = "digits",
    data_root: Path | None = None,
    objective: Callable[[], Objective] = Elbo,
    optimizer: Callable[[Any, float], Optimizer] = lambda params, lr: Adam(params, lr, fused=True),
    learning_rate: PositiveFloat = 1e-3,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    clip_norm: PositiveFloat | None = None,
    kl_weight: Callable[[], Schedule] = Constant,
    epochs: PositiveInt = 20,
    batch_size: PositiveInt = 128,
    patience: PositiveInt | None = None,
    log_every: PositiveInt = 100,
    checkpoint_every: NonNegativeFloat = 30.0,
    seed: NonNegativeInt = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    run: Path = Path("runs"),
) -> None:
    """Train a pair.

    Args:
        config: the arguments as YAML.
        parts: arguments of compose.
        resumed: whether the run exists and goes on.
        data: name of a data set; a wrong one lists them all.
        data_root: folder of the data files; else LOWERBOUND_DATA, else the user's cache folder.
        objective: what to optimise.
        optimizer: torch optimiser.
        learning_rate: step size of the optimiser.
        scheduler: torch learning-rate scheduler, advanced once an epoch.
        clip_norm: scale the gradient down to this norm where it is longer.
        kl_weight: weight of the KL term over time; the trace shows the unweighted ELBO.
        epochs: passes over the training data.
        batch_size: data per step.
        patience: stop after that many epochs without a better validation ELBO.
        log_every: steps between two train rows of the trace.
        checkpoint_every: seconds between two checkpoints.
        seed: of parameters, order of the data, and noise.
        device: where to compute; auto takes CUDA when there is one.
        run: directory to make; by default runs/DATA-TIME.
    """
    with one_line_errors("train.py"):
        if not resumed and run.exists():
            raise FileExistsError(f"{run} exists: --resume {run}, or name another with --run.")
        where = to_device(device)
        records = load(data, data_root).to(where)
        if batch_size > len(records.train):
            raise ValueError(f"--batch_size {batch_size} > {len(records.train)} training data.")
        pyro.set_rng_seed(seed)
        model, guide = place(compose(records.event_shape, **parts), where)
        faults = check(model, guide, records.train.batch(slice(min(batch_size, 64))))
    if faults:
        sys.exit("\n".join(["train.py: error: the pair is not sound:", *faults]))
    svi = SVI(
        model,
        guide,
        optimizer=lambda parameters: optimizer(parameters, learning_rate),
        objective=objective(),
        scheduler=scheduler,
        clip_norm=clip_norm,
    )
    svi.prepare(records.train.batch(slice(2)))
    with one_line_errors("train.py"):
        count = sum(p.numel() for p in svi.parameters.values())
        facts = environment(records, where, count) | {"pair": pair_source(parts["pair"])}
        directory = Run(run) if resumed else Run.create(run, config, facts)
    try:
        trace = fit(
            svi,
            records,
            epochs=epochs,
            batch_size=batch_size,
            kl_weight=kl_weight(),
            patience=patience,
            log_every=log_every,
            run=directory,
            checkpoint_every=checkpoint_every,
        )
    except Interrupted as stop:
        print(f"Stopped by {stop}, saved. Go on with: train.py --resume {run}", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except (OSError, FloatingPointError) as error:
        sys.exit(f"train.py: error: {error} The run is as last saved; train.py --resume {run}")
    save_trace(trace.rows, directory.figures / "trace.png", records.unit)
    if best := trace.best():
        print(f"{run}: best validation ELBO {best.elbo:.2f} {records.unit}, epoch {best.epoch:g}")


def main(argv: list[str] | None = None) -> None:
    """Read the command line, or the arguments of the run to resume."""
    parser = Parser("train.py", __doc__)
    parser.add_argument("--config", action="config", help="YAML file of arguments.")
    parser.add_argument("--resume", type=Path, help="Go on with this run; takes no other argument.")
    parser.add_function_arguments(train, skip={"config", "parts", "resumed"})
    parser.add_function_arguments(compose, skip={"event_shape"})
    arguments = parser.parse_args(argv)
    if resume := arguments.resume:
        if len(argv or sys.argv[1:]) > 2:
            parser.error("--resume takes no other argument: the run's config.yaml has them all.")
        with one_line_errors("train.py"):
            arguments = parser.parse_object({**Run(resume).config, "run": str(resume)})
    elif arguments.run == Path("runs"):
        arguments.run = Path("runs", f"{arguments.data}-{time.strftime('%Y%m%d-%H%M%S')}")
    for name in ("config", "resume"):
        arguments.pop(name, None)
    for name in ("pair", "data_root"):
        if arguments[name]:
            arguments[name] = arguments[name].resolve()
    config = parser.dump(arguments, skip_unset=False)
    made = dict(parser.instantiate(arguments))
    parts = pair_arguments(made)
    train(config, parts, bool(resume), **{k: v for k, v in made.items() if k not in parts})


if __name__ == "__main__":
    main()
