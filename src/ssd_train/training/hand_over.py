"""Broadcast the initial or resumed training state to all hosts."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from typing import Any, Dict

from ssd_train.archives import unpack_archive
from ssd_train.training.checkpoint import Checkpoints, TrainState
from ssd_train.training.cluster import Cluster


def same_start(cluster: Cluster, state: TrainState, learner: Any, fingerprint: Dict[str, Any]) -> TrainState:
    """Copy rank 0's state, weights and optimizer to all hosts; return the state.

    It is sent as a checkpoint without the best model, which only rank 0 keeps.
    """
    if cluster.size == 1:
        return state
    with tempfile.TemporaryDirectory() as name:
        folder, no_model, packed = (Path(name) / part for part in ("checkpoints", "model", "packed.tar.gz"))
        no_model.mkdir()
        checkpoints = Checkpoints(folder)
        if cluster.is_leader:
            checkpoints.save(state, learner, no_model)
            with tarfile.open(packed, "w:gz", compresslevel=0) as archive:
                archive.add(folder, ".")
            cluster.share_bytes(packed.read_bytes())
            return state
        packed.write_bytes(cluster.share_bytes(b""))
        unpack_archive(packed, folder)
        received, _ = checkpoints.restore(fingerprint, learner, no_model)
        return received
