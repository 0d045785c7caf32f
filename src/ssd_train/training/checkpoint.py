"""A training state on disk, written so that a kill loses nothing: a folder per save, with checksums (see published.py).
Nothing here is ever unpickled."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from ssd_train import __version__, published, storage
from ssd_train.errors import CheckpointError, SsdTrainError
from ssd_train.model.pretrained import load_exactly, read_arrays, saved_parameters
from ssd_train.training.circumstances import changes
from ssd_train.training.fingerprint import refuse_changes, whatever_the_data
from ssd_train.training.optimizer_state import load_optimizer, save_optimizer
from ssd_train.training.saved_model import CONFIG, is_of_best_model, save_parameters
from ssd_train.training.schedule import BestScore
from ssd_train.training.tally import Tally

STATE_FORMAT = 1
MOST = 1 << 53  # of what is counted
STATE, LAST, OPTIMIZER, AVERAGE, BEST = "state.json", "last.params", "optimizer.params", "average.params", "best"


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

    def refuse_early(self, fingerprint: Dict[str, Any], epochs: int, before_data: bool) -> None:
        """The refusals of the newest state that need no arrays, before work is done in vain: a CheckpointError when
        it has another fingerprint, as far as that is known `before_data` is read, or more than `epochs` are made."""
        for folder in published.published_folders(self.target)[:1]:
            try:
                published.verify_folder(folder, [STATE])
            except CheckpointError:
                return  # which `restore` tells, and takes the one before
            with _as_state(folder):
                document = _document(folder)
                marks = (document["fingerprint"], fingerprint)
                refuse_changes(folder, *(map(whatever_the_data, marks) if before_data else marks))
                made = TrainState(document["epoch"], Tally(**document["tally"]))
                refuse_fewer_epochs(self.folder, made, epochs)

    def _read(self, folder: Path, fingerprint: Dict[str, Any], learner: Any) -> Tuple[TrainState, List[str]]:
        """The state in `folder`, whose arrays are put into `learner`, and what of its circumstances has changed."""
        with _as_state(folder):
            document = _document(folder)
            refuse_changes(folder, document["fingerprint"], fingerprint)
            load_exactly(learner.net, folder / LAST)
            load_optimizer(read_arrays(folder / OPTIMIZER), learner.trainer, document["updates"])
            learner.loss_scale.restore(document["loss_scale"])
            if learner.average:
                load_exactly(learner.average.net, folder / AVERAGE)
                learner.average.updates = document["averaged_steps"]
            best, tally = BestScore(**document["best"]), Tally(**document["tally"])
            differences = changes(document.get("circumstances", {}), self.circumstances) if self.circumstances else []
            state = TrainState(document["epoch"], tally, best, document["history"], fingerprint)
            _require_sound(state, document)
            return state, differences


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


def refuse_fewer_epochs(folder: Path, state: TrainState, epochs: int) -> None:
    """A CheckpointError when `state`, of the checkpoints in `folder`, has made more than `epochs`."""
    if state.epoch + bool(state.tally.steps) > epochs:
        raise CheckpointError(f"{folder}: holds {state}, expected --epochs to be no less than that")


def _require_sound(state: TrainState, document: Dict[str, Any]) -> None:
    """A ValueError unless counts count and figures are finite: they may have been written by anybody."""
    tally, best = state.tally, state.best
    counts = [state.epoch, tally.steps, tally.images, tally.positives, tally.clipped]
    counts += [best.epoch + 1, best.epochs_since_improvement]
    figures = [tally.cross_entropy, tally.smooth_l1, tally.seconds, tally.data_seconds, best.value or 0.0]
    for count in [*counts, document["averaged_steps"]]:
        if not (isinstance(count, int) and 0 <= count < MOST):
            raise ValueError(f"found a count of {count!r}")
    for figure in [*figures, *document["loss_scale"]]:
        if not (isinstance(figure, (int, float)) and math.isfinite(figure)):
            raise ValueError(f"found a figure of {figure!r}")
    if not (isinstance(state.history, list) and all(isinstance(row, dict) for row in state.history)):
        raise ValueError("found a history that is no list of rows")
    kept = best.kept_row(state.history) or {}  # which later epochs are compared with
    for figure in filter(None, map(kept.get, ("mAP", "VOC07"))):
        if not (isinstance(figure, (int, float)) and math.isfinite(figure)):
            raise ValueError(f"found a score of {figure!r}")


@contextlib.contextmanager
def _as_state(folder: Path) -> Iterator[None]:
    """What cannot be read as a training state is a CheckpointError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise CheckpointError(f"{folder}: cannot be read as a training state ({error!r})") from None


def _document(folder: Path) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads((folder / STATE).read_text("utf-8"))
    if found["format"] > STATE_FORMAT:
        raise CheckpointError(
            f"{folder}: found format {found['format']} of ssd_train {found.get('package')}, "
            f"expected {STATE_FORMAT} or less: use a newer ssd_train"
        )
    return found
