"""A training state on disk, written so that a kill loses nothing: a folder per save, with checksums (see published.py).
Nothing here is ever unpickled."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ssd_train import __version__, published, storage
from ssd_train.config import TrainConfig, resumable_settings
from ssd_train.errors import CheckpointError, SsdTrainError
from ssd_train.model.pretrained import load_exactly, read_arrays, saved_parameters
from ssd_train.training.circumstances import changes
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

    circumstances   of the run (circumstances.py): kept, and what differs from a checkpoint's is told
    """

    def __init__(self, folder: Path, circumstances: Optional[Mapping[str, Any]] = None) -> None:
        self.folder = Path(folder)
        self.target = self.folder / "state"
        self.circumstances = dict(circumstances or {})

    def save(self, state: TrainState, learner: Any, best_model: Path) -> None:
        """Add a state; `best_model` is the model folder, which travels along."""

        def write(folder: Path) -> None:
            """Write all files of the state into `folder`."""
            save_parameters(folder / LAST, saved_parameters(learner.net))
            counts = save_optimizer(folder / OPTIMIZER, learner.trainer)
            if learner.average:
                save_parameters(folder / AVERAGE, saved_parameters(learner.average.net))
            if state.best.epoch >= 0:
                _copy_best(best_model, folder / BEST)
            document = {"format": STATE_FORMAT, "package": __version__, **asdict(state), "updates": counts}
            document["loss_scale"] = learner.loss_scale.state()
            document["averaged_steps"] = learner.average.updates if learner.average else 0
            document["circumstances"] = self.circumstances
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
            state, differences = self._read(folder, fingerprint, learner)
            _restore_best(folder / BEST, model_dir)
            return state, [*notes, f"resuming after {state} from {folder}", *differences]
        if folders:
            raise CheckpointError("; ".join(notes).replace("the checkpoint before it is used", "no other is whole"))
        return TrainState(fingerprint=fingerprint), []

    def _read(self, folder: Path, fingerprint: Dict[str, Any], learner: Any) -> Tuple[TrainState, List[str]]:
        """The state in `folder`, whose arrays are put into `learner`, and what of its circumstances has changed."""
        try:
            document = json.loads((folder / STATE).read_text("utf-8"))
            if document["format"] > STATE_FORMAT:
                raise CheckpointError(
                    f"{folder}: found format {document['format']} of ssd_train {document.get('package')}, "
                    f"expected {STATE_FORMAT} or less: use a newer ssd_train"
                )
            refuse_changes(folder, document["fingerprint"], fingerprint)
            load_exactly(learner.net, folder / LAST)
            load_optimizer(read_arrays(folder / OPTIMIZER), learner.trainer, document["updates"])
            learner.loss_scale.restore(document["loss_scale"])
            if learner.average:
                load_exactly(learner.average.net, folder / AVERAGE)
                learner.average.updates = document["averaged_steps"]
            best, tally = BestScore(**document["best"]), Tally(**document["tally"])
            differences = changes(document.get("circumstances", {}), self.circumstances) if self.circumstances else []
            return TrainState(document["epoch"], tally, best, document["history"], fingerprint), differences
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{folder}: cannot be read as a training state ({error!r})") from None


def _copy_best(best_model: Path, folder: Path) -> None:
    """The files of the best model; an SsdTrainError when somebody took them away."""
    folder.mkdir()
    try:
        read = {file.name: file.read_bytes() for file in filter(is_of_best_model, best_model.iterdir())}
    except OSError as error:
        raise _gone(best_model, error.strerror) from error
    if CONFIG not in read:
        raise _gone(best_model, f"no {CONFIG}")
    for name, data in read.items():
        (folder / name).write_bytes(data)


def _gone(best_model: Path, what: str) -> SsdTrainError:
    return SsdTrainError(
        f"{best_model}: the best model cannot be read any more ({what}), expected it to be left alone during the run; "
        "the checkpoint before has it: the same command goes on from there"
    )


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
    # a setting that came after the checkpoint was written did then what its default does
    defaults = {f"setting {item.name}": item.default for item in fields(TrainConfig)}
    old = {**{name: defaults[name] for name in new if name in defaults}, **old}
    old = {name: value for name, value in old.items() if name in new or not _may_change(name)}
    differing = [_change(key, old, new) for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if differing:
        raise CheckpointError(
            f"{folder}: cannot go on with other settings: {'; '.join(differing)}; "
            "use another checkpoint_dir to start anew"
        )


def _may_change(key: str) -> bool:
    """Whether a part of an older checkpoint's fingerprint is a setting that a run may change by now."""
    return key in {f"setting {name}" for name in resumable_settings()}


def _change(key: str, old: Dict[str, Any], new: Dict[str, Any]) -> str:
    if key.endswith(" labels") and key in old and key in new:  # digests, which tell a reader nothing
        return f"the {key} are not those of the checkpoint"
    if key.startswith("setting ") and key not in new:
        return f"{key}: the checkpoint has {old[key]!r}, this ssd_train does not know it: use a newer one"
    return f"{key}: found {new.get(key)!r}, the checkpoint has {old.get(key)!r}"
