"""Save and load the optimizer's arrays.

Trainer.save_states is not used: it writes a pickle, which can run code when it is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping

from ssd_train import framework
from ssd_train.training.array_file import write_arrays

mx = framework.mxnet()


def save_optimizer(path: Path, trainer: Any) -> Dict[str, int]:
    """Write the arrays of the optimizer's state; return the number of updates by parameter index."""
    updater = trainer._updaters[0]
    arrays = {}
    for index, value in updater.states.items():
        for part, array in enumerate(_as_parts(value)):
            arrays[f"{index}.{part}"] = array.as_in_context(mx.cpu())
    if not arrays:
        arrays = {"none": mx.nd.zeros(1)}  # sgd without momentum has no state, and MXNet cannot write an empty file
    write_arrays(path, arrays)
    return {str(index): count for index, count in trainer._optimizer._index_update_count.items()}


def load_optimizer(arrays: Mapping[str, Any], trainer: Any, counts: Mapping[str, int]) -> None:
    """Restore the arrays and update counts of `save_optimizer` on all devices of `trainer`."""
    optimizer = trainer._optimizer
    for position, updater in enumerate(trainer._updaters):
        for index, parameter in enumerate(trainer._params):
            if str(index) not in counts:
                continue  # never updated, so it has no state
            weight = parameter.list_data()[position]
            state = optimizer.create_state_multi_precision(index, weight)
            for part, array in enumerate(_as_parts(state)):
                arrays[f"{index}.{part}"].copyto(array)
            updater.states[index] = state
            updater.states_synced[index] = True
        # MXNet keeps the update counts by device index, which is 1 for gpu(1) even if that is the only device
        optimizer._set_current_context(trainer._contexts[position].device_id)
        optimizer._index_update_count.update({int(index): count for index, count in counts.items()})
    optimizer.num_update = max(counts.values(), default=0)


def _as_parts(state: Any) -> List[Any]:
    """Return the arrays of one parameter's optimizer state as a flat list."""
    if state is None:
        return []
    return [part for one in state for part in _as_parts(one)] if isinstance(state, (list, tuple)) else [state]
