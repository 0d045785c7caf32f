"""Train a detector: read the data, run the epochs, save the best model, write the report."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, TypeVar, Union

from ssd_train import mxnet_compat, sagemaker_metrics
from ssd_train.artifacts.model_config import CONFIG
from ssd_train.artifacts.saved_model import SavedModel, write_history
from ssd_train.config import TrainConfig
from ssd_train.data.structures import Detections, LabeledImage
from ssd_train.devices import explain_out_of_memory
from ssd_train.environment import Environment
from ssd_train.errors import SsdTrainError, TrainingDiverged, TrainingInterrupted
from ssd_train.evaluation.results import Scores
from ssd_train.progress import Progress
from ssd_train.storage.atomic import require_writable
from ssd_train.storage.lock import exclusive_lock
from ssd_train.training.checkpoint import Checkpoints, TrainState, broadcast_state, check_epochs, runtime_info
from ssd_train.training.deployment import export_best_model
from ssd_train.training.distributed.communicator import Communicator, init_distributed
from ssd_train.training.engine import Evaluator, evaluate, train_one_epoch
from ssd_train.training.schedule import epoch_learning_rates
from ssd_train.training.setup import TrainingSetup, build_setup
from ssd_train.training.step import digest
from ssd_train.visualization.report import write_report
from ssd_train.visualization.report_data import ReportData, Sample, summarise

Item = TypeVar("Item")


class InterruptibleProgress(Progress):
    """Progress that raises Stopped when a stop was requested; used outside the training loop.

    Args:
        progress: the progress to wrap.
        should_stop: returns True if a stop was requested.
        when: the stage of the run, for the message.
    """

    def __init__(self, progress: Progress, should_stop: Callable[[], bool], when: str) -> None:
        self._progress, self._should_stop, self._when = progress, should_stop, when
        self.info, self.warning = progress.info, progress.warning  # type: ignore[method-assign]

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items; raise Stopped between two of them on request."""
        for item in self._progress.track(items, total, what):
            if self._should_stop():
                raise TrainingInterrupted(f"stopped on request {self._when}")
            yield item


class CheckpointCallback:
    """Saves checkpoints and handles stop requests.

    Args:
        state: the training state to save.
        learner: holds the weights and the optimizer.
        model_dir: folder of the best model.
        checkpoints: where states are saved; None: nowhere.
        minutes: time between two checkpoints within an epoch; 0: none within epochs.
        should_stop: returns True if a stop was requested.
    """

    def __init__(
        self,
        state: TrainState,
        learner: Any,
        model_dir: Path,
        checkpoints: Optional[Checkpoints],
        minutes: float,
        should_stop: Callable[[], bool],
    ) -> None:
        self.state, self.learner, self.model_dir = state, learner, model_dir
        self.checkpoints, self.minutes, self.should_stop = checkpoints, minutes, should_stop
        self._saved = time.monotonic()

    def save(self) -> None:
        """Save the state now."""
        if self.checkpoints:
            self.checkpoints.save(self.state, self.learner, self.model_dir)
        self._saved = time.monotonic()

    def on_step_end(self) -> None:
        """Save if it is due; on request, save and raise Stopped, on all hosts after the same step.

        With dist_async, hosts do not step together and stop only between epochs.
        """
        if self.learner.cluster.exchange.together:
            self.raise_if_stop_requested()
        if self.learner.cluster.allreduce_step([self._is_due()])[0]:
            self.save()

    def _is_due(self) -> bool:
        elapsed = time.monotonic() - self._saved
        return bool(self.checkpoints and self.minutes) and elapsed >= 60 * self.minutes

    def on_epoch_end(self) -> None:
        """Save; with dist_async, stop here if any host has a request."""
        self.save()
        if not self.learner.cluster.exchange.together:
            self.raise_if_stop_requested()

    def raise_if_stop_requested(self) -> None:
        """Save and raise Stopped if any host has a stop request; all hosts must call this together."""
        if self.learner.cluster.allreduce_any(self.should_stop()):
            self.save()
            raise TrainingInterrupted(f"stopped on request after {self.state}")

    def interruptible(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield `items`; on a single host, stop between two of them on request."""
        for item in items:
            if self.learner.cluster.size == 1:
                self.raise_if_stop_requested()
            yield item


def log_config(config: TrainConfig, environment: Environment, progress: Progress) -> None:
    """Log the settings in a SageMaker job, as the built-in algorithm does."""
    if environment.on_sagemaker:
        progress.info(sagemaker_metrics.stamped(sagemaker_metrics.configuration_line(config.to_json())))


def log_epoch(config: TrainConfig, steps: int, state: TrainState, environment: Environment, progress: Progress) -> None:
    """Log the last epoch, which has `steps` steps."""
    row = state.history[-1]
    text = (
        f"epoch {state.epoch}/{config.epochs}  CrossEntropy {row['CrossEntropy']:.3f}  "
        f"SmoothL1 {row['SmoothL1']:.3f}  {row['images_per_second']:.1f} images/s"
    )
    if row["clipped_steps"]:
        text += f"  gradient clipped in {row['clipped_steps']} of {row['steps']} steps"
    if row.get("VOC07") is not None:
        kept = "best so far" if state.best.epoch == row["epoch"] else f"best in epoch {state.best.epoch + 1}"
        text += f"  COCO mAP {row['mAP']:.3f}  VOC07 mAP {row['VOC07']:.3f} ({kept})"
    progress.info(text)
    if environment.on_sagemaker:
        for line in _metric_lines(row, steps, config.epochs, environment.host):
            progress.info(sagemaker_metrics.stamped(line))


def log_weights_digest(hosts: int, digest: str, progress: Progress) -> None:
    """Log the SHA-256 of the final weights, if there are several hosts."""
    if hosts > 1:
        progress.info(f"weights at the end, on all {hosts} hosts: SHA-256 {digest[:12]}")


@contextlib.contextmanager
def annotate_divergence(state: TrainState) -> Iterator[None]:
    """Add the epoch, the saved model and advice to the message of TrainingDiverged."""
    try:
        yield
    except TrainingDiverged as error:
        kept = f"; the model of epoch {state.best.epoch + 1} is kept" if state.best.epoch >= 0 else ""
        raise TrainingDiverged(
            f"epoch {state.epoch + 1}: {error}{kept}; try a lower --learning_rate or a longer --warmup_epochs"
        ) from None


def _metric_lines(row: Dict[str, Any], steps: int, epochs: int, host: str) -> List[str]:
    epoch = row["epoch"]
    lines = sagemaker_metrics.loss_lines(host, epoch, steps - 1, row["CrossEntropy"], row["SmoothL1"])
    lines.append(sagemaker_metrics.throughput_line(host, row["images_per_second"]))
    lines.append(sagemaker_metrics.progress_line(host, epoch + 1, epochs))
    if row.get("VOC07") is not None:
        lines.append(sagemaker_metrics.map_line(host, epoch, row["VOC07"]))
        lines.append(sagemaker_metrics.validation_loss_line(host, epoch, row["val_SmoothL1"]))
    return lines


REPORT = "report.html"
PICTURE_THRESHOLD = 0.3  # the default of `predict`, used if no threshold has a best F1


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run on rank 0: its files and the scores of the best model."""

    model_dir: Path
    report: Path
    scores: Scores
    best_epoch: int
    epochs: int


@dataclass(frozen=True)
class WorkerResult:
    """Result on a rank other than 0: the SHA-256 of the final weights, and the host that has the model."""

    leader: str
    weights: str


def train(
    config: TrainConfig,
    environment: Environment,
    progress: Optional[Progress] = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Union[TrainResult, WorkerResult]:
    """Train a detector, or resume training if there is a checkpoint.

    On several hosts, every host calls this function; rank 0 writes the results.

    Args:
        config: settings of the run.
        environment: input and output folders, hosts and devices.
        progress: receives log lines and warnings; None: they are dropped.
        should_stop: called between steps; training stops when it returns True.

    Raises:
        SsdTrainError: bad settings or data, before the first step.
        TrainingDiverged: the loss, the gradient or the weights are not finite.
        Stopped: `should_stop` returned True; the state is saved.
    """
    progress = progress or Progress()
    started = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
    config, cluster = init_distributed(config, environment, progress)
    progress = cluster.rank0_progress(progress)
    with cluster, explain_out_of_memory(config):
        environment = _own_folders(environment, cluster)
        with exclusive_lock(environment.checkpoint_dir, progress):
            job = build_setup(
                config, environment, InterruptibleProgress(progress, should_stop, "before the first step"), cluster
            )
            return _train(job, environment, started, progress, should_stop)


def _own_folders(environment: Environment, cluster: Communicator) -> Environment:
    """Check on rank 0 that the output folders are writable; drop the checkpoint folder on other ranks."""
    if not cluster.is_main_process:
        return dataclasses.replace(environment, checkpoint_dir=None)
    for folder in filter(None, (environment.model_dir, environment.output_dir, environment.checkpoint_dir)):
        require_writable(folder)
    return environment


def _train(
    job: TrainingSetup, environment: Environment, started: str, progress: Progress, should_stop: Callable[[], bool]
) -> Union[TrainResult, WorkerResult]:
    log_config(job.config, environment, progress)
    keeper = _make_keeper(job, environment, should_stop, progress)
    state = keeper.state
    try:
        while state.epoch < job.config.epochs and not state.best.should_stop(job.config, state.epoch):
            _run_epoch(job, keeper, environment, progress)
            keeper.on_epoch_end()
    except TrainingInterrupted as stop:
        raise TrainingInterrupted(f"{stop}; {_describe_interrupted_run(job, keeper, environment)}") from None
    if not job.cluster.is_main_process:
        return WorkerResult(environment.hosts[0], digest(job.learner.parameters))
    log_weights_digest(job.cluster.size, digest(job.learner.parameters), progress)
    return _finalize(job, state, environment, started, InterruptibleProgress(progress, should_stop, f"after {state}"))


def _make_keeper(
    job: TrainingSetup, environment: Environment, should_stop: Callable[[], bool], progress: Progress
) -> CheckpointCallback:
    """Load the newest checkpoint, if there is one, and return the object that saves the next ones."""
    state, notes, checkpoints = TrainState(fingerprint=job.fingerprint), [], None
    if environment.checkpoint_dir:
        checkpoints = Checkpoints(environment.checkpoint_dir, runtime_info(job.config, job.learner.devices))
        state, notes = checkpoints.restore(job.fingerprint, job.learner, environment.model_dir)
        check_epochs(environment.checkpoint_dir, state, job.config.epochs)
    if state.best.epoch >= 0:
        _export(job, environment, progress)
    for note in notes:
        progress.info(note)
    state = broadcast_state(job.cluster, state, job.learner, job.fingerprint)
    job.learner.start(job.config, len(job.train_loader), state.epoch, state.tally.steps)
    minutes = job.config.checkpoint_minutes
    return CheckpointCallback(state, job.learner, environment.model_dir, checkpoints, minutes, should_stop)


def _run_epoch(job: TrainingSetup, keeper: CheckpointCallback, environment: Environment, progress: Progress) -> None:
    """Run the remaining steps of an epoch, evaluate if due, and log the results."""
    state = keeper.state
    with annotate_divergence(state):
        row = _train_epoch(job, keeper, progress)
        done = state.epoch + 1
        if done % job.config.validation_interval == 0 or done == job.config.epochs:
            _validate(job, keeper, row, environment, progress)
    steps = state.tally.steps
    state.end_epoch(row)
    log_epoch(job.config, steps, state, environment, progress)


def _describe_interrupted_run(job: TrainingSetup, keeper: CheckpointCallback, environment: Environment) -> str:
    """Describe what a stopped run leaves behind; save unscored weights if there is no model yet."""
    state = keeper.state
    if not job.cluster.is_main_process:
        return "the first host has the model"
    if state.best.epoch < 0 and (environment.model_dir / CONFIG).exists():
        model = f"nothing was scored yet; {environment.model_dir} holds the model that was there before"
    elif state.best.epoch < 0:
        job.saved_model(state.epoch, {}).save(environment.model_dir, job.answering_net, state.history)
        model = f"its weights, not yet scored, are in {environment.model_dir}"
    else:
        model = f"the model of epoch {state.best.epoch + 1} is in {environment.model_dir}"
    return f"{model}; run the same command again to resume" if keeper.checkpoints else model


def _train_epoch(job: TrainingSetup, keeper: CheckpointCallback, progress: Progress) -> Dict[str, Any]:
    """Run the remaining steps of an epoch; return its row of the history."""
    state, steps = keeper.state, len(job.train_loader)
    epoch, steps_done = state.epoch, state.tally.steps
    rates = epoch_learning_rates(job.config, epoch, steps)
    name = f"epoch {epoch + 1}/{job.config.epochs}"
    batches = progress.track(job.train_loader.epoch(epoch, steps_done), steps - steps_done, name)
    result = train_one_epoch(job.learner, batches, rates, state.tally, keeper.on_step_end)
    cluster = job.cluster  # streams of hosts may differ in length; each loader warns of its own
    if result["steps"] < steps and cluster.size > 1 and cluster.exchange.together:
        progress.warning(
            f"{name}: found {result['steps']} batches on every host, expected {steps}: the epoch ends early"
        )
    if epoch == 0 and job.cache is not None:
        progress.info(f"kept in memory: {job.cache}")
    return {
        "epoch": epoch,
        "CrossEntropy": result["CrossEntropy"],
        "SmoothL1": result["SmoothL1"],
        "learning_rate": rates[state.tally.steps - 1],
        "steps": result["steps"],
        "clipped_steps": result["clipped"],
        "images_per_second": round(result["images"] / result["seconds"], 3),
        "seconds": round(result["seconds"], 3),
        "data_seconds": round(result["data_seconds"], 3),
    }


def _validate(
    job: TrainingSetup, keeper: CheckpointCallback, row: Dict[str, Any], environment: Environment, progress: Progress
) -> None:
    """Evaluate, add the scores to `row`, and save the model if it is the best."""
    state = keeper.state
    result = job.cluster.broadcast_from_rank0(lambda: _score(job, keeper, progress))
    row.update(result["row"])
    if state.best.update(row, state.history, job.config) and job.cluster.is_main_process:
        history = [*state.history, row]
        job.saved_model(row["epoch"], result["scores"]).save(environment.model_dir, job.answering_net, history)
        _export(job, environment, progress)


def _score(job: TrainingSetup, keeper: CheckpointCallback, progress: Progress) -> Dict[str, Any]:
    """Evaluate on the validation data; return the figures for the history and all scores."""
    batches = keeper.interruptible(progress.track(job.validation_loader, len(job.validation_loader), "validation"))
    scores, smooth_l1, _ = evaluate(job.evaluator, batches, job.class_names)
    row = {"VOC07": scores.voc07, "mAP": scores.coco, "mAP@0.5": scores.ap50, "val_SmoothL1": smooth_l1}
    return {"row": row, "scores": scores.to_json()}


def _export(job: TrainingSetup, environment: Environment, progress: Progress) -> None:
    export_best_model(environment.model_dir, job.validation_loader, job.config, progress)


def _finalize(
    job: TrainingSetup, state: TrainState, environment: Environment, started: str, progress: Progress
) -> TrainResult:
    """Save the whole history, evaluate the saved best model, and write the report."""
    if state.best.epoch < 0:
        raise SsdTrainError("training: no epoch was scored, expected at least one validation image with a box")
    best = SavedModel.load(environment.model_dir)
    write_history(environment.model_dir, state.history)
    _export(job, environment, progress)
    scores, predictions = _score_best(job, best, progress)
    report = environment.output_dir / REPORT
    write_report(report, _report_data(job, state, started, scores, predictions))
    return TrainResult(environment.model_dir, report, scores, state.best.epoch, state.epoch)


def _score_best(
    job: TrainingSetup, best: SavedModel, progress: Progress
) -> "Tuple[Scores, List[Tuple[LabeledImage, Detections]]]":
    """Evaluate the best model as read back from its folder, so that the report shows the model the user gets."""
    device = job.learner.devices[0]
    evaluator = Evaluator(best.build(device), best.config, device, best.post_nms)
    batches = progress.track(job.validation_loader, len(job.validation_loader), "scoring the best model")
    scores, _, predictions = evaluate(evaluator, batches, job.class_names)
    return scores, predictions


def _report_data(
    job: TrainingSetup,
    state: TrainState,
    started: str,
    scores: Scores,
    predictions: "List[Tuple[LabeledImage, Detections]]",
) -> ReportData:
    data = job.validation_loader.dataset
    indices = {id(record): index for index, record in enumerate(data.labels.records)}
    # unreadable images have no detections, so `predictions` may lack some records
    shown = [indices[id(record)] for record, _ in predictions]
    images = [lambda index=index: data[index][0] for index in shown]
    return ReportData(
        title=f"{job.config.base_network} detector at {job.config.image_shape} px",
        class_names=job.class_names,
        started=started,
        settings=job.config.to_json(),
        versions=mxnet_compat.versions(),
        history=[{**row, "epoch": row["epoch"] + 1} for row in state.history],  # people count from 1
        scores=scores.to_json(),
        curves={name: curve._asdict() for name, curve in scores.curves.items()},
        data=[summarise("train", job.train.labels), summarise("validation", job.validation.labels)],
        samples=[Sample(r.basename, image, r, detections) for image, (r, detections) in zip(images, predictions)],
        best_epoch=state.best.epoch + 1,
        threshold=scores.best_f1.threshold if scores.best_f1 and scores.best_f1.threshold else PICTURE_THRESHOLD,
    )
