"""What the hosts of a job start with: the leader's weights, optimizer and place in the course, new or resumed."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from typing import Any, Dict

from ssd_train.archives import unpack_archive
from ssd_train.training.checkpoint import Checkpoints, TrainState
from ssd_train.training.cluster import Cluster


def same_start(cluster: Cluster, state: TrainState, learner: Any, fingerprint: Dict[str, Any]) -> TrainState:
    """The leader's `state` on all hosts, its arrays put into their `learner`s. It travels as a checkpoint does, without
    the best model, which the leader alone keeps."""
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
