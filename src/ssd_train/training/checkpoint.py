"""A training state on disk, written so that a kill loses nothing: a folder per save, with checksums (see published.py).
Nothing here is ever unpickled."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Tuple

from ssd_train import __version__, published, storage
from ssd_train.errors import CheckpointError
from ssd_train.model.pretrained import load_exactly, read_arrays, saved_parameters
from ssd_train.training.optimizer_state import load_optimizer, save_optimizer
from ssd_train.training.saved_model import CONFIG, LAST, is_of_best_model, save_parameters
from ssd_train.training.schedule import BestScore
from ssd_train.training.tally import Tally

STATE_FORMAT = 1
STATE, OPTIMIZER, AVERAGE, BEST = "state.json", "optimizer.params", "average.params", "best"


@dataclass
class TrainState:
    """All that a run needs to go on as if it had never stopped, beside the weights and the optimizer's arrays.

    epoch           epochs made
    tally           steps made of the one after them
    fingerprint     what the run was started with and may not change
    """

    epoch: int = 0
    tally: Tally = field(default_factory=Tally)
    best: BestScore = field(default_factory=BestScore)
    history: List[Dict[str, Any]] = field(default_factory=list)
    fingerprint: Dict[str, Any] = field(default_factory=dict)

    def end_epoch(self, row: Dict[str, Any]) -> None:
        """Take the row of the history of an epoch of which all is done."""
        self.history.append(row)
        self.epoch += 1
        self.tally = Tally()

    def __str__(self) -> str:
        return f"epoch {self.epoch}" + (f", step {self.tally.steps} of the next" if self.tally.steps else "")


class Checkpoints:
    """The training states in a folder: the newest and two before.

    Two, because SageMaker deletes on S3 what is deleted here: a machine that is taken away while the newest is copied
    there leaves the one before, even where that one too was still on its way.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.target = self.folder / "state"

    def save(self, state: TrainState, learner: Any, best_model: Path) -> None:
        """Add a state; `best_model` is the model folder, which travels along."""

        def write(folder: Path) -> None:
            save_parameters(folder / LAST, saved_parameters(learner.net))
            counts = save_optimizer(folder / OPTIMIZER, learner.trainer)
            if learner.average:
                save_parameters(folder / AVERAGE, saved_parameters(learner.average.net))
            if state.best.epoch >= 0:
                (folder / BEST).mkdir()
                for file in filter(is_of_best_model, best_model.iterdir()):
                    (folder / BEST / file.name).write_bytes(file.read_bytes())
            document = {"format": STATE_FORMAT, "package": __version__, **asdict(state), "updates": counts}
            document["loss_scale"] = learner.loss_scale.state()
            document["averaged_steps"] = learner.average.updates if learner.average else 0
            (folder / STATE).write_text(json.dumps(document, allow_nan=False), "utf-8")

        published.publish_folder(self.target, write, keep=2)

    def restore(self, fingerprint: Dict[str, Any], learner: Any, model_dir: Path) -> Tuple[TrainState, List[str]]:
        """The newest undamaged state put into `learner`, and what is to be told about it; a new TrainState where there
        is none. A CheckpointError names what differs from `fingerprint`, or the damage when no state is whole."""
        notes: List[str] = []
        folders = published.published_folders(self.target)
        for folder in folders:
            try:
                published.verify_folder(folder)
            except CheckpointError as error:
                notes.append(f"{error}; the checkpoint before it is used")
                continue
            state = self._read(folder, fingerprint, learner)
            _restore_best(folder / BEST, model_dir)
            return state, [*notes, f"resuming after {state} from {folder}"]
        if folders:
            raise CheckpointError("; ".join(notes).replace("the checkpoint before it is used", "no other is whole"))
        return TrainState(fingerprint=fingerprint), []

    def _read(self, folder: Path, fingerprint: Dict[str, Any], learner: Any) -> TrainState:
        try:
            document = json.loads((folder / STATE).read_text("utf-8"))
            if document["format"] > STATE_FORMAT:
                raise CheckpointError(
                    f"{folder}: found format {document['format']}, expected {STATE_FORMAT}: use a newer ssd_train"
                )
            refuse_changes(folder, document["fingerprint"], fingerprint)
            load_exactly(learner.net, folder / LAST)
            load_optimizer(read_arrays(folder / OPTIMIZER), learner.trainer, document["updates"])
            learner.loss_scale.restore(document["loss_scale"])
            if learner.average:
                load_exactly(learner.average.net, folder / AVERAGE)
                learner.average.updates = document["averaged_steps"]
            best, tally = BestScore(**document["best"]), Tally(**document["tally"])
            return TrainState(document["epoch"], tally, best, document["history"], fingerprint)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}: cannot be read as a training state ({error!r})") from None


def _restore_best(best: Path, model_dir: Path) -> None:
    """The best model of a checkpoint into the model folder: on another machine it is empty, and after a kill it may
    hold a later model than the state, which the run will make again."""
    if not best.is_dir():
        return
    model_dir.mkdir(parents=True, exist_ok=True)
    for file in sorted(best.iterdir(), key=lambda f: f.name == CONFIG):
        storage.write_bytes_atomic(model_dir / file.name, file.read_bytes())


def refuse_changes(folder: Path, old: Dict[str, Any], new: Dict[str, Any]) -> None:
    """A CheckpointError that names every part of the fingerprint that differs."""
    changes = [_change(key, old, new) for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if changes:
        raise CheckpointError(
            f"{folder}: cannot go on with other settings: {'; '.join(changes)}; "
            "use another checkpoint_dir to start anew"
        )


def _change(key: str, old: Dict[str, Any], new: Dict[str, Any]) -> str:
    if key.endswith(" labels") and key in old and key in new:  # digests, which tell a reader nothing
        return f"the {key} are not those of the checkpoint"
    return f"{key}: found {new.get(key)!r}, the checkpoint has {old.get(key)!r}"
