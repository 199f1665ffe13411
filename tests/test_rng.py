"""Random states of CUDA devices, on generators of the CPU that stand for theirs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from inference import rng

Visible = Callable[..., list[torch.Generator]]


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> Visible:
    """Make so many devices visible, one of them present, as one of so many processes."""

    def show(count: int, present: int = 0, processes: int = 1) -> list[torch.Generator]:
        devices = [torch.Generator().manual_seed(i) for i in range(count)]

        def set_state(state: Tensor, device: int | str = "cuda") -> None:
            devices[present if device == "cuda" else int(device)].set_state(state)

        cuda = torch.cuda
        monkeypatch.setattr(cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(cuda, "is_available", lambda: True)
        monkeypatch.setattr(cuda, "device_count", lambda: count)
        monkeypatch.setattr(cuda, "current_device", lambda: present)
        monkeypatch.setattr(cuda, "get_rng_state_all", lambda: [d.get_state() for d in devices])
        monkeypatch.setattr(cuda, "set_rng_state", set_state)
        monkeypatch.setattr(cuda, "manual_seed_all", lambda seed: None)
        monkeypatch.setattr("inference.rng.world", lambda: processes)
        return devices

    return show


def draw(device: torch.Generator) -> float:
    return torch.rand((), generator=device).item()


def test_isolated_leaves_every_device_as_it_was(visible: Visible) -> None:
    devices = visible(2, present=0)
    with rng.isolated():
        inside = [draw(device) for device in devices]
    assert [draw(device) for device in devices] == inside


@pytest.mark.parametrize("older", [False, True])
def test_processes_go_on_from_the_state_of_the_first(visible: Visible, older: bool) -> None:
    """The first saved; of the devices that it saw, its own alone had drawn."""
    devices = visible(2, present=0, processes=2)
    draw(devices[0])
    state = rng.get_state()
    if older:
        del state["cuda_present"]
    expected = draw(devices[0])
    for present in (0, 1):
        devices = visible(2, present, processes=2)
        rng.set_state(state)
        assert draw(devices[present]) == expected


def test_fewer_devices_than_saved_are_no_error(visible: Visible) -> None:
    devices = visible(4, present=3)
    state = rng.get_state()
    expected = [draw(device) for device in devices]
    devices = visible(2)
    rng.set_state(state)
    assert draw(devices[0]) == expected[3]  # the run's device was the fourth
    devices = visible(4, present=3)
    rng.set_state(state)
    assert [draw(device) for device in devices] == expected


@pytest.mark.parametrize("count", [1, 3])
def test_more_devices_than_saved_are_no_error(visible: Visible, count: int) -> None:
    state = {**rng.get_state(), "cuda": [torch.Generator().manual_seed(9).get_state()]}
    devices = visible(count)
    rng.set_state(state)
    assert draw(devices[0]) == draw(torch.Generator().manual_seed(9))


def test_without_cuda_the_states_of_devices_are_ignored() -> None:
    state = {**rng.get_state(), "cuda": [torch.get_rng_state()]}
    rng.set_state(state)
    rng.set_state({k: v for k, v in rng.get_state().items() if k != "cuda_present"})
