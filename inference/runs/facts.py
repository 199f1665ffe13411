"""What a run's numbers depend on besides its arguments."""

import platform
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..data.records import Dataset
from ..data.streams import Streams


def environment(
    data: Dataset | Streams,
    device: torch.device,
    parameters: int,
    unit: str | None = None,
    pair: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Return what a run's numbers depend on besides its arguments.

    Args:
        data: the data set.
        device: where the run computes.
        parameters: how many numbers the pair learns.
        unit: of the pair's log p(x), see `check.unit_of`; None is that of the data.
        pair: function that makes the pair for a shape of data, so that `load_run` can name it;
            one that can't be imported is not recorded.
    """
    home, name = (getattr(pair, key, "") for key in ("__module__", "__qualname__"))
    can_be_imported = bool(home and name) and home != "__main__" and "<" not in name
    versions = {each: metadata.version(each) for each in ("torch", "pyro-ppl", "numpy")}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        "data": {
            "name": data.name,
            "hash": data.content_hash,
            "unit": unit or data.unit,
            "protocol": data.protocol,
            "sizes": {name: len(data.split(name)) for name in data.parts},
            "event_shape": list(data.event_shape),
        },
        "parameters": parameters,
        **({"made_by": f"{home}:{name}"} if can_be_imported else {}),
    }


def _processor() -> str:
    return f"cpu ({platform.machine()})"


def _git_commit() -> str | None:
    """Return the commit of the code, marked if the work tree differs; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        here = Path(__file__).parent
        return subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
