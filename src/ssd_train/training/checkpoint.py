"""Checkpoints: one folder per save with checksums, written atomically and read without pickle (storage/atomic.py)."""

from __future__ import annotations

import contextlib
import json
import math
import tarfile
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ssd_train import __version__, mxnet_compat
from ssd_train.artifacts.model_config import CONFIG, read_model_config
from ssd_train.artifacts.saved_model import HISTORY, belongs_to_best, save_ndarrays, save_parameters
from ssd_train.artifacts.symbol_format import owner_of_folder
from ssd_train.config import SETTING_ALIASES, TrainConfig, resumable_settings, settings_by_data
from ssd_train.data.structures import Labels
from ssd_train.errors import CheckpointError, ConfigError, SsdTrainError, WeightsError, check_format
from ssd_train.model.pretrained import load_strict, read_arrays, state_dict
from ssd_train.storage import atomic
from ssd_train.storage.archive import unpack_archive
from ssd_train.training.distributed.communicator import Communicator
from ssd_train.training.engine import EpochMeter
from ssd_train.training.schedule import BestTracker

mx = mxnet_compat.mxnet()


def save_optimizer(path: Path, trainer: Any) -> Dict[str, int]:
    """Write the arrays of the optimizer's state; return the number of updates by parameter index."""
    updater = trainer._updaters[0]
    arrays = {}
    for index, value in updater.states.items():
        for part, array in enumerate(_as_parts(value)):
            arrays[f"{index}.{part}"] = array.as_in_context(mx.cpu())
    if not arrays:
        arrays = {"none": mx.nd.zeros(1)}  # sgd without momentum has no state, and MXNet cannot write an empty file
    save_ndarrays(path, arrays)
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


def fingerprint(config: TrainConfig, train: Labels, validation: Labels, processes: int = 1) -> Dict[str, Any]:
    """Return the settings that affect the weights, the classes and digests of the labels, by name."""
    return {
        **config_fingerprint(config, processes),
        "classes": list(train.class_names),
        "training labels": train.sha256(),
        "validation labels": validation.sha256(),
    }


def config_fingerprint(config: TrainConfig, processes: int = 1) -> Dict[str, Any]:
    """Return the part of the fingerprint that is known before the data is read."""
    marks = {name: value for name, value in _setting_marks(config.to_json()).items() if not _may_change(name)}
    if processes > 1:  # it determines the global batch
        marks["processes"] = processes
    return marks


def without_data_fields(marks: Dict[str, Any]) -> Dict[str, Any]:
    """Return the fingerprint without the fields that the data determines."""
    by_data = {"classes", "training labels", "validation labels", *(f"setting {name}" for name in settings_by_data())}
    return {name: value for name, value in marks.items() if name not in by_data}


def check_compatible(folder: Path, old: Dict[str, Any], new: Dict[str, Any]) -> None:
    """Raise CheckpointError, naming every part of the fingerprint that differs."""
    differing = fingerprint_differences(old, new)
    if differing:
        raise CheckpointError(
            f"{folder}: cannot resume with other settings: {'; '.join(differing)}; "
            "use another checkpoint_dir to start a new run"
        )


def fingerprint_differences(old: Dict[str, Any], new: Dict[str, Any], owner: str = "checkpoint") -> List[str]:
    """Return a text for every part of the fingerprint that differs; `owner` has the old one."""
    # settings may have been renamed since the checkpoint was written
    renamed = {f"setting {name}": f"setting {current}" for name, current in SETTING_ALIASES.items()}
    old = {renamed.get(name, name): value for name, value in old.items()}
    # a setting added after the checkpoint was written counts as its default; one of the initial weights has no effect
    for item in fields(TrainConfig):
        name = f"setting {item.name}"
        if name in new and name not in old:
            old[name] = new[name] if item.metadata.get("start") else item.default
    old = {name: value for name, value in old.items() if name in new or not _may_change(name)}
    keys = sorted({*old, *new}, key=lambda key: (key.startswith("setting "), key))  # the data first
    return [_change(key, old, new, owner) for key in keys if old.get(key) != new.get(key)]


def check_model_folder(
    folder: Path, fingerprint: Dict[str, Any], before_data: bool, resumes: bool, checkpoint_dir: Optional[Path]
) -> None:
    """Refuse a model folder whose model the run would replace instead of continuing it.

    Args:
        folder: the model folder.
        fingerprint: of this run.
        before_data: compare only the parts of the fingerprint that do not depend on the data.
        resumes: True if this run resumes from a checkpoint; then a model whose run is not known is its own.
        checkpoint_dir: folder of the run's checkpoints. A run killed after the model of its first epoch was saved, and
            before the first checkpoint was, begins again there.

    Raises:
        ConfigError: the folder holds the model of another run, one of this run without its checkpoints, or an export.
    """
    try:
        owner = owner_of_folder(folder)
        document = read_model_config(folder) if owner and (folder / CONFIG).is_file() else None
    except WeightsError as error:
        if resumes:
            return
        raise ConfigError(f"{error}; {_OVERWRITE}") from None
    if document is None:
        if owner is not None or (folder / CONFIG).exists():
            raise ConfigError(f"{folder}: found the model of another program or command, {_OVERWRITE}")
        return
    own = {name: value for name, value in fingerprint.items() if name != "processes"}  # not stored in the model
    old = _model_fingerprint(document)
    if resumes and not document.get("labels_sha256"):
        return
    if before_data:
        old, own = without_data_fields(old), without_data_fields(own)
    differing = fingerprint_differences(old, own, "model")
    if differing:
        other = f"the model of another run ({_describe_model(document)})"
        raise ConfigError(f"{folder}: found {other}, {'; '.join(differing)}; {_OVERWRITE}")
    if not (before_data or resumes or (checkpoint_dir and _epochs_of(folder) < 2)):
        raise ConfigError(
            f"{folder}: found the model of an earlier run of the same settings ({_describe_model(document)}), which a "
            f"run that does not resume from its --checkpoint_dir replaces, {_OVERWRITE}"
        )


def _epochs_of(folder: Path) -> int:
    """Return the number of epochs in the history of a model folder."""
    history = folder / HISTORY
    return len(history.read_text("utf-8").splitlines()) if history.exists() else 0


_OVERWRITE = "expected no model, or that of the run to resume: use another --model_dir, or --overwrite to replace it"


def _model_fingerprint(document: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the fingerprint of the run that saved a model, from its config.json."""
    digests = document.get("labels_sha256", {})
    return {
        **{name: value for name, value in _setting_marks(document["settings"]).items() if not _may_change(name)},
        "classes": list(document["class_names"]),
        "training labels": digests.get("training"),
        "validation labels": digests.get("validation"),
    }


def _describe_model(document: Mapping[str, Any]) -> str:
    names, settings = document["class_names"], document["settings"]
    classes = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{classes}; {settings.get('base_network')}, {document['image_shape']} px, epoch {document['epoch'] + 1}"


def _setting_marks(settings: Mapping[str, Any]) -> Dict[str, Any]:
    return {f"setting {name}": value for name, value in settings.items()}


def _may_change(key: str) -> bool:
    """Return whether a part of an old checkpoint's fingerprint is a setting that may now change on resume."""
    return key in {f"setting {name}" for name in resumable_settings()}


def _change(key: str, old: Dict[str, Any], new: Dict[str, Any], owner: str) -> str:
    if key.endswith(" labels") and key in old and key in new:  # digests mean nothing to a person
        return f"the {key} are not those of the {owner}"
    if key.startswith("setting ") and key not in new:
        return f"{key}: the {owner} has {old[key]!r}, this ssd_train does not know it: use a newer one"
    return f"{key}: found {new.get(key)!r}, the {owner} has {old.get(key)!r}"


_BITS = "the weights may differ from those of an uninterrupted run in the last bits"


def runtime_info(config: TrainConfig, devices: Sequence[Any]) -> Dict[str, Any]:
    """Return the runtime properties to store in a checkpoint."""
    return {
        "epochs": config.epochs,
        "schedule": config.schedule,
        "CPU threads": mxnet_compat.cpu_threads(),
        "devices": ", ".join(map(str, devices)),
        "versions": {"ssd_train": __version__, **mxnet_compat.versions()},
    }


def describe_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> List[str]:
    """Return a line to log for each property that differs. An old checkpoint may lack some."""
    lines = [
        f"{name}: found {new[name]}, the checkpoint was made with {old[name]}: {_BITS}"
        for name in ("CPU threads", "devices")
        if name in old and old[name] != new[name]
    ]
    before, now = old.get("versions", {}), new["versions"]
    others = [f"{name} {now.get(name)} (was {before[name]})" for name in before if before[name] != now.get(name)]
    if others:
        lines.append(f"versions: found {', '.join(others)}: {_BITS}")
    if old.get("epochs", new["epochs"]) != new["epochs"]:
        course = "; from here the learning rate follows the new schedule" if new["schedule"] == "cosine" else ""
        lines.append(f"epochs: found {new['epochs']}, the checkpoint was made for {old['epochs']}{course}")
    return lines


STATE_FORMAT = 1
MAX_COUNT = 1 << 53
STATE, LAST, OPTIMIZER, AVERAGE, BEST = "state.json", "last.params", "optimizer.params", "average.params", "best"


@dataclass
class TrainState:
    """State of a run for an exact resume, without weights and optimizer arrays.

    Attributes:
        epoch: number of finished epochs.
        meter: sums over the finished steps of the next epoch.
        best: the best score so far, for early stopping.
        history: one row for each finished epoch.
        fingerprint: settings and data of the run that may not change on resume.
    """

    epoch: int = 0
    meter: EpochMeter = field(default_factory=EpochMeter)
    best: BestTracker = field(default_factory=BestTracker)
    history: List[Dict[str, Any]] = field(default_factory=list)
    fingerprint: Dict[str, Any] = field(default_factory=dict)

    def end_epoch(self, row: Dict[str, Any]) -> None:
        """Append the row of the finished epoch to the history and start the next one."""
        self.history.append(row)
        self.epoch += 1
        self.meter = EpochMeter()

    def __str__(self) -> str:
        return f"epoch {self.epoch}" + (f", step {self.meter.steps} of the next" if self.meter.steps else "")


class Checkpoints:
    """The training states in a folder: the newest and two before it.

    Three, because SageMaker deletes on S3 what is deleted here: if the machine is lost while the newest is being
        uploaded, an older one remains, even if the upload of the second newest was not finished either.

    Args:
        folder: the checkpoint folder.
        runtime: runtime properties, see `runtime_info`. They are stored; differences are logged on resume.
    """

    def __init__(self, folder: Path, runtime: Optional[Mapping[str, Any]] = None) -> None:
        self.folder = folder
        self.target = self.folder / "state"
        self.runtime = dict(runtime or {})

    def save(self, state: TrainState, train_step: Any, best_model: Optional[Path]) -> None:
        """Write a new state, including the files of the best model in the folder `best_model`, unless it is None."""

        def write(folder: Path) -> None:
            save_parameters(folder / LAST, state_dict(train_step.net))
            counts = save_optimizer(folder / OPTIMIZER, train_step.trainer)
            if train_step.average:
                save_parameters(folder / AVERAGE, state_dict(train_step.average.net))
            if best_model is not None and state.best.epoch >= 0:
                _copy_best(best_model, folder / BEST)
            values = asdict(state)
            values["tally"] = values.pop("meter")
            document = {"format": STATE_FORMAT, "package": __version__, **values, "updates": counts}
            document["loss_scale"] = train_step.loss_scale.state()
            document["averaged_steps"] = train_step.average.updates if train_step.average else 0
            document["circumstances"] = self.runtime
            (folder / STATE).write_text(json.dumps(document, allow_nan=False), "utf-8")

        atomic.write_dir_atomic(self.target, write, keep=2)

    def restore(
        self, fingerprint: Dict[str, Any], train_step: Any, model_dir: Path, epochs: Optional[int] = None
    ) -> Tuple[TrainState, List[str]]:
        """Load the newest undamaged state into `train_step`, and its best model into `model_dir`.

        Args:
            fingerprint: of this run.
            train_step: the training step to restore.
            model_dir: folder of the best model.
            epochs: number of epochs of this run; None: any.

        Returns:
            The state, a new one if there is no checkpoint, and the lines to log about it.

        Raises:
            CheckpointError: the state is of another run (see `check_resumable`), or every state is damaged.
        """
        notes: List[str] = []
        folders = atomic.finished_dirs(self.target)
        for folder in folders:
            try:
                atomic.verify_checksums(folder)
            except CheckpointError as error:
                notes.append(f"{error}; the checkpoint before it is used")
                continue
            state, differences = self._read(folder, fingerprint, train_step, epochs)
            _restore_best(folder / BEST, model_dir)
            return state, [*notes, f"resuming after {state} from {folder}", *differences]
        if folders:
            raise CheckpointError("; ".join(notes).replace("the checkpoint before it is used", "no other is whole"))
        return TrainState(fingerprint=fingerprint), []

    def check_resumable(self, fingerprint: Dict[str, Any], epochs: int, before_data: bool) -> bool:
        """Check the newest state as far as possible without its arrays, before expensive work begins.

        Args:
            fingerprint: of this run.
            epochs: number of epochs of this run.
            before_data: compare only the parts of the fingerprint that do not depend on the data.

        Returns:
            True if there is a state.

        Raises:
            CheckpointError: the fingerprint differs, or more than `epochs` are finished.
        """
        for folder in atomic.finished_dirs(self.target)[:1]:
            try:
                atomic.verify_checksums(folder, [STATE])
            except CheckpointError:
                return True  # `restore` logs it and uses an older state
            with _as_state(folder):
                self._require_same_run(folder, _document(folder), fingerprint, epochs, before_data)
            return True
        return False

    def setting(self, name: str) -> Any:
        """Return a setting of the run in the folder, from its newest undamaged state; None if there is none."""
        for folder in atomic.finished_dirs(self.target):
            with contextlib.suppress(CheckpointError), _as_state(folder):
                atomic.verify_checksums(folder, [STATE])
                return _document(folder)["fingerprint"].get(f"setting {name}")
        return None

    def _read(
        self, folder: Path, fingerprint: Dict[str, Any], train_step: Any, epochs: Optional[int]
    ) -> Tuple[TrainState, List[str]]:
        """Load the state in `folder` into `train_step`; return it and the changed runtime properties to log."""
        with _as_state(folder):
            document = _document(folder)
            self._require_same_run(folder, document, fingerprint, epochs)
            load_strict(train_step.net, folder / LAST)
            load_optimizer(read_arrays(folder / OPTIMIZER), train_step.trainer, document["updates"])
            train_step.loss_scale.restore(document["loss_scale"])
            if train_step.average:
                load_strict(train_step.average.net, folder / AVERAGE)
                train_step.average.updates = document["averaged_steps"]
            best, meter = BestTracker(**document["best"]), EpochMeter(**document["tally"])
            differences = describe_differences(document.get("circumstances", {}), self.runtime) if self.runtime else []
            state = TrainState(document["epoch"], meter, best, document["history"], fingerprint)
            _require_sound(state, document)
            return state, differences

    def _require_same_run(
        self,
        folder: Path,
        document: Dict[str, Any],
        fingerprint: Dict[str, Any],
        epochs: Optional[int],
        before_data: bool = False,
    ) -> None:
        """Refuse a resume: raise CheckpointError if the state in `folder` is of another run, or beyond `epochs`."""
        fingerprints = (document["fingerprint"], fingerprint)
        check_compatible(folder, *(map(without_data_fields, fingerprints) if before_data else fingerprints))
        if epochs is not None:
            check_epochs(self.folder, TrainState(document["epoch"], EpochMeter(**document["tally"])), epochs)


def _copy_best(best_model: Path, folder: Path) -> None:
    """Copy the files of the best model; raise SsdTrainError if they are gone."""
    folder.mkdir()
    try:
        files = {file.name: file.read_bytes() for file in filter(belongs_to_best, best_model.iterdir())}
    except OSError as error:
        raise _best_model_lost(best_model, error.strerror or str(error)) from error
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
        atomic.write_bytes_atomic(model_dir / file.name, file.read_bytes())


def check_epochs(folder: Path, state: TrainState, epochs: int) -> None:
    """Raise CheckpointError if `state`, saved in `folder`, is beyond `epochs` epochs."""
    if state.epoch + bool(state.meter.steps) > epochs:
        raise CheckpointError(f"{folder}: holds {state}, expected --epochs to be no less than that")


def _require_sound(state: TrainState, document: Dict[str, Any]) -> None:
    """Raise ValueError unless counts are valid and numbers finite: the file may come from anywhere."""
    meter, best = state.meter, state.best
    counts = [state.epoch, meter.steps, meter.images, meter.positives, meter.clipped]
    counts += [best.epoch + 1, best.epochs_since_improvement]
    figures = [meter.cross_entropy, meter.smooth_l1, meter.seconds, meter.data_seconds, best.value or 0.0]
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
    check_format(folder, document, STATE_FORMAT, CheckpointError)
    return document


def broadcast_state(
    cluster: Communicator, state: TrainState, train_step: Any, fingerprint: Dict[str, Any]
) -> TrainState:
    """Copy rank 0's state, weights and optimizer to all hosts; return the state.

    It is sent as a checkpoint without the best model, which only rank 0 keeps.
    """
    if cluster.size == 1:
        return state
    with tempfile.TemporaryDirectory() as name:
        folder, no_model, packed = (Path(name) / part for part in ("checkpoints", "model", "packed.tar.gz"))
        checkpoints = Checkpoints(folder)
        if cluster.is_main_process:
            checkpoints.save(state, train_step, None)
            with tarfile.open(packed, "w:gz", compresslevel=0) as archive:
                archive.add(folder, ".")
            cluster.broadcast_bytes(packed.read_bytes())
            return state
        packed.write_bytes(cluster.broadcast_bytes(b""))
        unpack_archive(packed, folder)
        received, _ = checkpoints.restore(fingerprint, train_step, no_model)
        return received
