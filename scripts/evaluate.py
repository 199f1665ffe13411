"""Measure a run on a split: the ELBO and the K-sample bound on log p(x), in nats per datum."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from inference import Compile, rng
from inference.data import Source
from inference.data.fresh import fresh
from inference.distributed import processes, rank
from inference.evaluation import annealing, diagnose, evaluate, inference_gaps
from inference.runs import Run
from inference.runs.figures import save_curve
from inference.runs.tables import table
from scripts._arguments import (
    Device,
    NonNegativeInt,
    Parser,
    PositiveInt,
    Seed,
    one_line_errors,
    to_device,
)
from scripts._ending import end
from scripts._pair import trained
from scripts._run_arguments import add_quiet


def measure(
    run: Path,
    particles: PositiveInt = 100,
    repeats: PositiveInt = 1,
    split: Literal["train", "valid", "test"] = "test",
    data: Path | None = None,
    ais: NonNegativeInt = 0,
    bdmc: NonNegativeInt = 0,
    gaps: NonNegativeInt = 0,
    chains: PositiveInt = 16,
    distributions: PositiveInt = 1000,
    start: Literal["guide", "prior"] = "guide",
    seed: Seed = 0,
    compile: Compile = "auto",  # noqa: A002  (torch's own word for it)
    device: Device = "auto",
    data_root: Path | None = None,
    trust: Path | None = None,
    pair: Path | None = None,
    quiet: bool = False,
) -> None:
    """Evaluate the weights with the best validation ELBO; write RUN/evaluation.json and .npz.

    Args:
        run: directory that lowerbound train made.
        particles: number K of draws for each datum; the bound rises towards log p(x) with it.
        repeats: independent estimates of the bound; 2 or more measure its noise directly.
        split: which part of the data.
        data: other data in the run's unit, a file or folder as lowerbound train takes it; then
            RUN/evaluation-NAME.json and .npz are written, and no split is measured.
        ais: how many data of the split to measure by annealed importance sampling as well.
        bdmc: how many data, simulated from the model, to enclose between two bounds.
        gaps: how many data of the split to refine the guide for, one by one, to tell what its
            family costs from what its encoder costs.
        chains: chains for each datum of the two annealed ones.
        distributions: steps of their path from the start to the posterior.
        start: where their path starts.
        seed: of the draws, and of x where the data set draws it.
        compile: whether to capture and compile a pass of the bound, as for lowerbound train.
        device: where to compute; auto takes CUDA when there is one.
        data_root: folder of the data files, if it is not where the run found them.
        trust: the run again, whose config.yaml may then import any module and call anything that it
            names, as a module of your own; without it a run names parts of lowerbound, torch.optim
            and pyro.infer alone.
        pair: Python file of the run's pair, where it lies elsewhere now or in the run itself, or
            was never run by you.
        quiet: show nothing but warnings and the last line.
    """
    with one_line_errors("lowerbound evaluate", file=pair), processes(to_device(device)) as where:
        defaults = (chains, distributions, start) == (16, 1000, "guide")
        if not defaults and not ais and not bdmc:
            raise ValueError("--chains, --distributions and --start go with --ais N or --bdmc N.")
        if data is not None and split != "test":
            raise ValueError(f"--data {data} has no splits: leave out --split.")
        directory, name = Run(run), split if data is None else data.stem
        known, model, guide = trained(directory, where, data_root, trust, pair)
        chosen = known.split(split)
        if data is not None:
            chosen = fresh(data, known, Source(**directory.config["data"])).to(where)
        result = evaluate(
            model,
            guide,
            chosen,
            particles=particles,
            repeats=repeats,
            name=name,
            seed=seed,
            compile=compile,
            data_size=len(known.train),
            show_progress=False if quiet else None,
        )
        if rank():
            return  # the first process does the rest
        summary: dict[str, Any] = result.summary()
        notes, warnings = result.notes(), result.warnings()
        try:
            code = diagnose(model, guide, chosen, seed=seed, name=name)
            summary["diagnostics"] = code.summary()
            warnings += code.warnings()
        except ValueError as error:  # of a pair without a code of each datum
            notes.append(f"No diagnostics: {error}")
        path: dict[str, Any] = {"chains": chains, "distributions": distributions, "start": start}
        path["show_progress"] = False if quiet else None
        with rng.isolated(seed):
            places = torch.randperm(len(chosen), device=chosen.device)
            x, like, few = (chosen.batch(places[:n]) for n in (ais, bdmc, gaps))
            shifts = [chosen.log_det(places[:n]) for n in (ais, bdmc, gaps)]
        measures: dict[str, Callable[[], Any]] = {
            "ais": lambda: shifted(
                annealing.ais(model, guide, x, seed=seed, **path), shifts[0], "log_px"
            ),
            "bdmc": lambda: shifted(
                annealing.bdmc(model, guide, like, seed=seed, **path), shifts[1], "lower", "upper"
            ),
            "gaps": lambda: shifted(
                inference_gaps(model, guide, few, seed=seed),
                shifts[2], "elbo", "refined", "log_px",
            ),
        }  # fmt: skip
        refused = []
        for each in (n for n, count in (("ais", ais), ("bdmc", bdmc), ("gaps", gaps)) if count):
            try:
                summary[each] = measures[each]().summary()
            except ValueError as error:  # what is measured already is worth keeping
                refused.append(f"--{each}: {error}")
    with one_line_errors("lowerbound evaluate"):
        try:
            stored = {**summary, "unit": directory.unit, "seed": seed}
            directory.write_evaluation(stored, result.arrays(), None if data is None else name)
            figure = directory.figures / ("bound.png" if data is None else f"bound-{name}.png")
            save_curve(
                result.steps.tolist(), list(summary["curve"].values()), figure, stored["unit"]
            )
        finally:  # what was computed is shown, be it saved or not
            if not quiet:
                report(summary, directory.unit)
            for sentence in () if quiet else notes:
                print(f"Note: {sentence}")
            for sentence in warnings:
                print(f"Warning: {sentence}")
            if quiet:
                bound = f"{summary['log_px']:.3f} (se {summary['log_px_se']:.3f})"
                print(f"{run}: ELBO {summary['elbo']:.3f}, log p(x) >= {bound} {directory.unit}")
    if refused:
        end("lowerbound evaluate", f"{' '.join(refused)} All else is measured and saved.", 2)


def shifted(found: Any, log_det: Tensor | None, *names: str) -> Any:
    """Return bounds on the density of x as those of the data as they are stored."""
    if log_det is None:
        return found
    return replace(found, **{name: getattr(found, name) + log_det.cpu() for name in names})


def report(summary: dict[str, Any], unit: str) -> None:
    """Print the figures of an evaluation."""
    parts = ("curve", "diagnostics", "ais", "bdmc", "gaps")
    row = {name: value for name, value in summary.items() if name not in parts}
    print(table(list(row), [list(map(shown, row.values()))]))
    others = {name: summary[name] for name in parts[2:] if name in summary}
    for name, values in {"bound by K": summary["curve"], **others}.items():
        print(f"{name}: {', '.join(f'{key} {shown(value)}' for key, value in values.items())}")
    for name, site in summary.get("diagnostics", {"sites": {}})["sites"].items():
        print(f"site {name}: {site['active_units']} of {site['units']} units active")
    print(f"{unit}; log_px is a lower bound, log_px_se the standard error over the split.")


def shown(value: object) -> str:
    """Return a figure as text."""
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("lowerbound evaluate", __doc__)
    parser.add_argument(
        "runs", type=Path, nargs="+", help="Directories that lowerbound train made."
    )
    parser.add_function_arguments(measure, skip={"run", "quiet"})
    add_quiet(parser)
    arguments = dict(parser.instantiate(parser.parse_args(argv)))
    runs = arguments.pop("runs")
    with one_line_errors("lowerbound evaluate"):
        for run in runs if len(runs) > 1 else ():  # before any is measured
            _ = Run(run).config
    for run in runs:
        if len(runs) > 1 and not arguments["quiet"]:
            print(f"{run}:")
        measure(run, **arguments)


if __name__ == "__main__":
    main()
