"""Train a model/guide pair on a data set and record its ELBO trace in a run directory.

Every argument is kept in RUN/config.yaml: --config RUN/config.yaml --run ANOTHER runs it again,
--resume RUN resumes it.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import yaml
from pyro.infer import ELBO
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from inference import (
    SVI,
    Compile,
    Constant,
    Elbo,
    Estimator,
    Objective,
    Observer,
    Precision,
    Schedule,
    with_estimator,
)
from inference.check import check, unit_of
from inference.data import Dataset, Source, Split, View
from inference.data.supported import outside
from inference.distributed import from_first, processes, rank, world
from inference.objectives import as_objective
from inference.runs import Run, environment, restore, save_pictures
from inference.runs.figures import save_trace
from inference.runs.run import need_folder
from inference.runs.segments import begin, changes
from inference.runs.starting import start_from
from inference.training import Scheduled, Select, TensorBoard, fit
from scripts._arguments import (
    Device,
    NonNegativeFloat,
    Parser,
    PositiveFloat,
    PositiveInt,
    Seed,
    one_line_errors,
    to_device,
)
from scripts._data import opened, suit, taken
from scripts._messages import first_line, kept
from scripts._pair import ListParts, add_pair_arguments, compose, room_of, split_arguments
from scripts._recorded_code import refuse_changed_code, remember, source_of
from scripts._run_arguments import read_run_arguments
from scripts._trial import is_plain_adam, try_optimizer
from scripts._trust import short_names

MADE = {"config", "parts", "resumed", "quiet", "dry", "records", "chosen"}
"""Arguments of `train` that no command line gives."""


def train(
    config: str,
    parts: dict[str, Any],
    resumed: bool,
    quiet: bool,
    dry: bool,
    records: Dataset,
    chosen: list[str],
    data: Source = Source(),  # noqa: B008  (frozen)
    view: View | None = None,  # noqa: ARG001
    data_root: Path | None = None,  # noqa: ARG001
    objective: Callable[[], Objective | ELBO] = Elbo,
    estimator: Callable[[], Estimator] | None = None,
    optimizer: Callable[[Any, float], Optimizer] = lambda params, lr: Adam(params, lr, fused=True),
    learning_rate: PositiveFloat = 1e-3,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    clip_norm: PositiveFloat | None = None,
    compile: Compile = "auto",  # noqa: A002  (torch's own word for it)
    precision: Precision = "32",
    kl_weight: Callable[[], Schedule] = Constant,
    schedules: dict[str, Schedule] | None = None,
    watch: list[Observer] | None = None,
    tensorboard: bool = False,
    epochs: PositiveInt = 20,
    batch_size: PositiveInt = 128,
    patience: PositiveInt | None = None,
    select: Select | None = None,
    log_every: PositiveInt = 100,
    checkpoint_every: NonNegativeFloat = 30.0,
    seed: Seed = 0,
    init: Path | None = None,
    device: Device = "auto",
    run: Path = Path("runs"),
) -> None:
    """Train a pair.

    Args:
        config: the arguments as YAML.
        parts: arguments of compose.
        resumed: whether the run exists and is resumed.
        quiet: whether to show only warnings and the last line.
        dry: whether to stop before there is a run, and print what it would be.
        records: the data, on the CPU.
        chosen: parts that were chosen to suit the data.
        data: what to train on.
        view: how stored values become x; by default as their kind suggests.
        data_root: folder of the data files; else LOWERBOUND_DATA, else the user's cache folder.
        objective: what to optimise; also an ELBO of Pyro's, as TraceGraph_ELBO.
        estimator: how to estimate its gradient, for an objective that leaves the choice.
        optimizer: torch optimiser.
        learning_rate: step size of the optimiser.
        scheduler: torch learning-rate scheduler, advanced once an epoch.
        clip_norm: largest norm of the gradient; a longer one is scaled down.
        compile: how to take steps. off: eagerly. graph: captured once and replayed. inductor:
            captured and compiled. auto: as it pays, eagerly where the pair can't be captured.
        precision: of the factors of matrix products and convolutions; all else is in 32 bits. On a
            CPU tf32 is 32.
        kl_weight: weight of the KL term over time; the trace shows the unweighted ELBO.
        schedules: of other numbers over time, by name: learning_rate, objective.beta,
            objective.estimator.temperature, a buffer of the pair. --schedules.objective.beta Linear
            takes the schedule's defaults; else JSON, --schedules '{"objective.beta": {"class_path":
            "Linear", "init_args": {"end": 4}}}'.
        watch: observers by their import paths; fit calls them at each row and checkpoint.
        tensorboard: whether to write the trace to RUN/tensorboard as well, for TensorBoard.
        epochs: passes over the training data.
        batch_size: data per step, of all processes together.
        patience: stop after that many epochs without a better validation.
        select: what chooses the weights that are kept, on the validation split. elbo: the ELBO.
            objective: what is optimised, weights and all. last: none, the last are kept. By default
            elbo where what is optimised bounds log p(x) in the end, else objective.
        log_every: steps between two train rows of the trace; at most an epoch.
        checkpoint_every: seconds between two checkpoints.
        seed: of parameters, order of the data, and noise.
        init: run whose weights to start from, where names and shapes agree.
        device: where to compute; auto takes CUDA when there is one.
        run: directory to make; by default runs/DATA-TIME.
    """
    with (
        one_line_errors("lowerbound train", file=parts["pair"]),
        processes(to_device(device)) as where,
    ):
        asked = yaml.safe_load(config)
        # Making an optimiser imports for a second: where it can't fail, the first line comes first.
        bound, schedule = with_estimator(as_objective(objective()), estimator), kl_weight()
        moved = scheduler or schedules or schedule != Constant()
        safe = is_plain_adam(asked["optimizer"]) and not (moved or estimator or init or dry)
        if not safe:
            try_optimizer(optimizer, learning_rate, scheduler)
        if not resumed:
            need_folder(run)
        if tensorboard:  # is it there?
            TensorBoard(run)
        records = records.to(where)
        if batch_size > len(records.train):
            raise ValueError(f"--batch_size {batch_size} is more than {len(records.train)} data.")
        if batch_size % world():
            raise ValueError(f"--batch_size {batch_size} is no multiple of {world()} processes.")
        pyro.set_rng_seed(seed)
        masked = records.train.mask is not None
        room, changed = None, dict[str, list[Any]]()
        if resumed:  # before the pair of a run from elsewhere takes memory
            before = Run(run)
            changed, _ = changes(before, asked), before.unit
            room = None if parts["pair"] else room_of(before)
        model, guide = compose(
            records.event_shape, where, records.train.sample, masked, room, **parts
        )
        whole, records = records, taken(records, model, guide)
        if records.train.given != whole.train.given and not quiet and not rank():
            print("Note: the pair takes no labels: they are not in its batches.", file=sys.stderr)
        x = records.train.batch(slice(min(batch_size, 64)))
        found = check(model, guide, x, records.train.view)
        if faults := [each for each in found if each.kind == "fault"]:
            raise ValueError(f"the pair is not sound. {' '.join(faults)}")
        if not resumed and (found_outside := outside(model, guide, records)):
            raise ValueError(found_outside)
        for note in found if not rank() and not quiet else ():
            print(f"Note: {note}", file=sys.stderr)
        line = first_line(records, asked, chosen, model, guide, where)
        if safe and not quiet and not rank():
            print(line, file=sys.stderr)
        svi = SVI(
            model,
            guide,
            lambda parameters: optimizer(parameters, learning_rate),
            bound,
            scheduler,
            clip_norm,
            compile,
            precision,
            len(records.train),
        )
        svi.prepare(x)
        # Check names and values before there is a run.
        Scheduled(svi, {"kl_weight": schedule, **(schedules or {})}, epochs)
        run = Path(from_first(str(run)))
        if dry:
            print(f"{config}Nothing is wrong, and nothing was run.")
            return
        if init is not None and not resumed:
            said = start_from(Run(init), svi)
            if not rank():
                print(f"Note: {said}", file=sys.stderr)
        if not resumed and rank() == 0:
            count = sum(value.numel() for value in svi.parameters.values())
            known = records.train.view
            unit = unit_of(model, guide, x, known) + records.unit.removeprefix(known.unit)
            facts = environment(whole, where, count, unit)
            for name, file in (
                ("pair", parts["pair"]),
                ("data_file", data.path if data.is_code else None),
            ):
                facts[name] = source_of(file)
                remember(file)
            Run.create(run, config, facts)
        directory = Run(Path(from_first(str(run))))
        refuse_changed_code(directory, parts["pair"])
        if changed and rank() == 0:
            directory = begin(directory, config, changed, svi, records.train)
            for name, (before, now) in changed.items():
                print(f"Note: {name} is {now} from here on, {before} before.", file=sys.stderr)
        boards = [TensorBoard(directory.path / "tensorboard")] if tensorboard else []
        if not safe and not quiet and not rank():
            print(line, file=sys.stderr)
        # The others wait for the first here.
        onward = f"lowerbound train --resume {from_first(str(run))}"
        slower = f"From the last checkpoint, with: {onward} --learning_rate {learning_rate / 10:g}"
        if "learning_rate" in (schedules or {}):
            slower += " --schedules null (a schedule sets it here)"
        with one_line_errors("lowerbound train", f"Go on with: {onward}", slower, parts["pair"]):
            trace = fit(
                svi,
                records,
                epochs=epochs,
                batch_size=batch_size,
                kl_weight=schedule,
                schedules=schedules,
                patience=patience,
                select=select,
                log_every=log_every,
                run=directory,
                checkpoint_every=checkpoint_every,
                watch=[*(watch or ()), *boards],
                show_progress=False if quiet else None,
            )
            if rank():
                return
            save_trace(trace.rows, directory.figures / "trace.png", directory.unit)
            restore(directory, model, guide, x)
            if rows := min(8, len(records.valid) // 8):
                draw(model, guide, records.valid, directory, rows)
    if best := trace.best():
        print(f"{run}: {kept(best, trace, directory.unit)}")


def draw(model: Any, guide: Any, split: Split, run: Run, rows: int) -> None:
    """Draw the trained pair; whatever its programs raise then, the run is finished."""
    try:
        save_pictures(model, guide, split, run.figures, rows=rows)
    except Exception as error:
        said = " ".join(str(error).split())
        print(
            f"Warning: no pictures ({type(error).__name__}: {said}). The run is whole; try again "
            f"with: lowerbound sample {run.path}",
            file=sys.stderr,
        )


def main(argv: list[str] | None = None) -> None:
    """Read the command line, or the arguments of the run to resume."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("inference").setLevel(logging.INFO)  # how steps are captured, and why not
    parser = Parser("lowerbound train", __doc__)
    parser.add_function_arguments(train, skip=MADE)
    add_pair_arguments(parser)
    parser.add_argument("--list", action=ListParts, help="Show every part in a line, and exit.")
    arguments, resumed, quiet, dry = read_run_arguments(parser, argv)
    if quiet:
        logging.getLogger("inference").setLevel(logging.WARNING)
    records = opened(arguments, parser.prog)
    chosen = [] if resumed else suit(arguments, parser, argv, records)
    config = yaml.safe_dump(
        short_names(yaml.safe_load(parser.dump(arguments, skip_unset=False))), sort_keys=False
    )
    parts, others = split_arguments(parser.instantiate(arguments))
    train(config, parts, resumed, quiet, dry, records, chosen, **others)


if __name__ == "__main__":
    main()
