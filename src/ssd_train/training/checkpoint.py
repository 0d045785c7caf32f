"""Checkpoints: one folder per save with checksums, written atomically and read without pickle (published.py)."""

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
MAX_COUNT = 1 << 53
STATE, LAST, OPTIMIZER, AVERAGE, BEST = "state.json", "last.params", "optimizer.params", "average.params", "best"


@dataclass
class TrainState:
    """State of a run for an exact resume, without weights and optimizer arrays.

    Attributes:
        epoch: number of finished epochs.
        tally: sums over the finished steps of the next epoch.
        best: the best score so far, for early stopping.
        history: one row for each finished epoch.
        fingerprint: settings and data of the run that may not change on resume.
    """

    epoch: int = 0
    tally: Tally = field(default_factory=Tally)
    best: BestScore = field(default_factory=BestScore)
    history: List[Dict[str, Any]] = field(default_factory=list)
    fingerprint: Dict[str, Any] = field(default_factory=dict)

    def end_epoch(self, row: Dict[str, Any]) -> None:
        """Append the row of the finished epoch to the history and start the next one."""
        self.history.append(row)
        self.epoch += 1
        self.tally = Tally()

    def __str__(self) -> str:
        return f"epoch {self.epoch}" + (f", step {self.tally.steps} of the next" if self.tally.steps else "")


class Checkpoints:
    """The training states in a folder: the newest and two before it.

    Three, because SageMaker deletes on S3 what is deleted here: if the machine is lost while the newest is being
        uploaded, an older one remains, even if the upload of the second newest was not finished either.

    Args:
        folder: the checkpoint folder.
        circumstances: runtime properties (circumstances.py). They are stored; differences are logged on resume.
    """

    def __init__(self, folder: Path, circumstances: Optional[Mapping[str, Any]] = None) -> None:
        self.folder = Path(folder)
        self.target = self.folder / "state"
        self.circumstances = dict(circumstances or {})

    def save(self, state: TrainState, learner: Any, best_model: Path) -> None:
        """Write a new state, including the files of the best model in the folder `best_model`."""

        def write(folder: Path) -> None:
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
        """Load the newest undamaged state into `learner`, and its best model into `model_dir`.

        Returns:
            The state, a new one if there is no checkpoint, and the lines to log about it.

        Raises:
            CheckpointError: the fingerprint differs, or every state is damaged.
        """
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
        """Check the newest state as far as possible without its arrays, before expensive work begins.

        Args:
            fingerprint: of this run.
            epochs: number of epochs of this run.
            before_data: compare only the parts of the fingerprint that do not depend on the data.

        Raises:
            CheckpointError: the fingerprint differs, or more than `epochs` are finished.
        """
        for folder in published.published_folders(self.target)[:1]:
            try:
                published.verify_folder(folder, [STATE])
            except CheckpointError:
                return  # `restore` logs it and uses an older state
            with _as_state(folder):
                document = _document(folder)
                fingerprints = (document["fingerprint"], fingerprint)
                refuse_changes(folder, *(map(whatever_the_data, fingerprints) if before_data else fingerprints))
                state = TrainState(document["epoch"], Tally(**document["tally"]))
                refuse_fewer_epochs(self.folder, state, epochs)

    def _read(self, folder: Path, fingerprint: Dict[str, Any], learner: Any) -> Tuple[TrainState, List[str]]:
        """Load the state in `folder` into `learner`; return it and the changed runtime properties to log."""
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
    """Copy the files of the best model; raise SsdTrainError if they are gone."""
    folder.mkdir()
    try:
        files = {file.name: file.read_bytes() for file in filter(is_of_best_model, best_model.iterdir())}
    except OSError as error:
        raise _best_model_lost(best_model, error.strerror) from error
    if CONFIG not in files:
        raise _best_model_lost(best_model, f"no {CONFIG}")
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _best_model_lost(best_model: Path, reason: str) -> SsdTrainError:
    return SsdTrainError(
        f"{best_model}: the best model can no longer be read ({reason}), expected it to stay unchanged during the run; "
        "the last checkpoint has it: run the same command again to resume"
    )


def _restore_best(best: Path, model_dir: Path) -> None:
    """Copy the best model of a checkpoint into the model folder.

    That folder is empty on a new machine. After a kill it may hold a later model, which the resumed run makes again.
    """
    if not best.is_dir():
        return
    model_dir.mkdir(parents=True, exist_ok=True)
    for file in sorted(best.iterdir(), key=lambda f: f.name == CONFIG):
        storage.write_bytes_atomic(model_dir / file.name, file.read_bytes())


def refuse_fewer_epochs(folder: Path, state: TrainState, epochs: int) -> None:
    """Raise CheckpointError if `state`, saved in `folder`, is beyond `epochs` epochs."""
    if state.epoch + bool(state.tally.steps) > epochs:
        raise CheckpointError(f"{folder}: holds {state}, expected --epochs to be no less than that")


def _require_sound(state: TrainState, document: Dict[str, Any]) -> None:
    """Raise ValueError unless counts are valid and numbers finite: the file may come from anywhere."""
    tally, best = state.tally, state.best
    counts = [state.epoch, tally.steps, tally.images, tally.positives, tally.clipped]
    counts += [best.epoch + 1, best.epochs_since_improvement]
    figures = [tally.cross_entropy, tally.smooth_l1, tally.seconds, tally.data_seconds, best.value or 0.0]
    for count in [*counts, document["averaged_steps"]]:
        if not (isinstance(count, int) and 0 <= count < MAX_COUNT):
            raise ValueError(f"found a count of {count!r}")
    for figure in [*figures, *document["loss_scale"]]:
        if not (isinstance(figure, (int, float)) and math.isfinite(figure)):
            raise ValueError(f"found a figure of {figure!r}")
    if not (isinstance(state.history, list) and all(isinstance(row, dict) for row in state.history)):
        raise ValueError("found a history that is no list of rows")
    kept = best.kept_row(state.history) or {}  # later epochs are compared with it
    for figure in filter(None, map(kept.get, ("mAP", "VOC07"))):
        if not (isinstance(figure, (int, float)) and math.isfinite(figure)):
            raise ValueError(f"found a score of {figure!r}")


@contextlib.contextmanager
def _as_state(folder: Path) -> Iterator[None]:
    """Turn any error of reading a training state into CheckpointError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise CheckpointError(f"{folder}: cannot be read as a training state ({error!r})") from None


def _document(folder: Path) -> Dict[str, Any]:
    document: Dict[str, Any] = json.loads((folder / STATE).read_text("utf-8"))
    if document["format"] > STATE_FORMAT:
        raise CheckpointError(
            f"{folder}: found format {document['format']} of ssd_train {document.get('package')}, "
            f"expected {STATE_FORMAT} or less: use a newer ssd_train"
        )
    return document
