"""lowerbound COMMAND ...: the commands of this folder by one name, from a checkout or a wheel."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module

COMMANDS = {
    "train": "train a model/guide pair and record its ELBO trace in a run directory",
    "check": "look at a pair and say what is wrong with it",
    "evaluate": "measure runs on a split: the ELBO and a bound on log p(x)",
    "sample": "draw a run: samples, reconstructions, interpolations",
    "apply": "put new data through a run: codes, scores, imputations, samples",
    "gradients": "measure gradient estimators on a pair: bias, variance, variance times time",
    "sweep": "train, evaluate and compare a grid of configurations, several seeds each",
    "runs": "list the runs of a folder: state, what differs, best ELBO, log p(x)",
    "compare": "compare runs: differences with their intervals, traces, tables",
}
"""What each does."""


@contextmanager
def _ending_at_once(name: str) -> Iterator[None]:
    """End the process at a SIGINT. Imports take seconds, and some catch a KeyboardInterrupt."""

    def end(*_: object) -> None:
        os.write(2, f"lowerbound {name}: stopped by SIGINT.\n".encode())
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main(argv: list[str] | None = None) -> None:
    """Run the command that the first word names, with the others as its arguments."""
    words = sys.argv[1:] if argv is None else argv
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    usage = f"usage: lowerbound COMMAND ...\n\n{table}\n\nlowerbound COMMAND --help says more."
    if not words or words[0] in ("-h", "--help"):
        print(usage)
        return
    if words[0] == "--version":
        print(f"lowerbound {import_module('inference').__version__}")
        return
    name, *others = words
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}."
        print(f"lowerbound: no command {name!r}: {remedy}", file=sys.stderr)
        sys.exit(2)
    try:
        with _ending_at_once(name):
            command = import_module(f"{__package__}.{name}")
        command.main(others)
    except BrokenPipeError:  # whoever read has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        print(f"lowerbound {name}: stopped by SIGINT.", file=sys.stderr)
        sys.exit(130)
