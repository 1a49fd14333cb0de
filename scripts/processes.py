"""One notebook in several processes (`accelerate launch`): who shares what.

Every process runs every cell. Training is shared by Trainer, batches of everything else by these functions, and only the main
process writes (scripts/artifacts.py). In one process all of this is nothing at all.
"""

from __future__ import annotations

import os

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor


def sharing() -> tuple[int, int]:
    """(number of this process, how many there are) that batches are shared among.

    (0, 1) also under FSDP, where each process holds a part of the weights and every forward pass needs all of them: there all
    processes do all batches, together.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return 0, 1
    state = PartialState()
    return state.process_index, state.num_processes


def gathered(found: list) -> list:
    """The lists of all processes that share the work as one list, in each of them."""
    return gather_object(found) if sharing()[1] > 1 else found


def whole(weight: torch.Tensor) -> torch.Tensor:
    """A weight with all its parts, where FSDP has spread it over the processes; any other as it is."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def whole_weights(model) -> dict[str, torch.Tensor]:
    """The model's state dict with whole weights, for `save_pretrained(folder, state_dict=...)`."""
    return {name: whole(weight) for name, weight in model.state_dict().items()}
