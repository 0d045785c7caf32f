"""Train a detector: read the data, run the epochs, save the best model, write the report."""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from ssd_train import framework
from ssd_train.config import TrainConfig
from ssd_train.data.records import Detections, Record
from ssd_train.environment import Environment
from ssd_train.errors import SsdTrainError, Stopped
from ssd_train.locks import held
from ssd_train.progress import Progress
from ssd_train.storage import require_writable
from ssd_train.training.checkpoint import Checkpoints, TrainState, refuse_fewer_epochs
from ssd_train.training.circumstances import circumstances
from ssd_train.training.cluster import Cluster, join
from ssd_train.training.deployment import keep_deployable
from ssd_train.training.devices import memory_advice
from ssd_train.training.engine import Evaluator, evaluate, train_one_epoch
from ssd_train.training.hand_over import same_start
from ssd_train.training.job import Job, prepare
from ssd_train.training.keeper import Heeding, Keeper
from ssd_train.training.learner import digest
from ssd_train.training.saved_model import CONFIG, SavedModel, write_history
from ssd_train.training.schedule import course
from ssd_train.training.scores import Scores
from ssd_train.training.telling import divergence_told, tell_configuration, tell_epoch, tell_weights
from ssd_train.view.report import write_report
from ssd_train.view.report_data import ReportData, Sample, summarise

REPORT = "report.html"
PICTURE_THRESHOLD = 0.3  # the default of `predict`, used if no threshold has a best F1


@dataclass(frozen=True)
class Trained:
    """Result of a training run on rank 0: its files and the scores of the best model."""

    model_dir: Path
    report: Path
    scores: Scores
    best_epoch: int
    epochs: int


@dataclass(frozen=True)
class TookPart:
    """Result on a rank other than 0: the SHA-256 of the final weights, and the host that has the model."""

    leader: str
    weights: str


def train(
    config: TrainConfig,
    environment: Environment,
    progress: Optional[Progress] = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Union[Trained, TookPart]:
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
    config, cluster = join(config, environment, progress)
    progress = cluster.heard(progress)
    with cluster, memory_advice(config):
        environment = _own_folders(environment, cluster)
        with held(environment.checkpoint_dir, progress):
            job = prepare(config, environment, Heeding(progress, should_stop, "before the first step"), cluster)
            return _train(job, environment, started, progress, should_stop)


def _own_folders(environment: Environment, cluster: Cluster) -> Environment:
    """Check on rank 0 that the output folders are writable; drop the checkpoint folder on other ranks."""
    if not cluster.is_leader:
        return dataclasses.replace(environment, checkpoint_dir=None)
    for folder in filter(None, (environment.model_dir, environment.output_dir, environment.checkpoint_dir)):
        require_writable(folder)
    return environment


def _train(
    job: Job, environment: Environment, started: str, progress: Progress, should_stop: Callable[[], bool]
) -> Union[Trained, TookPart]:
    tell_configuration(job.config, environment, progress)
    keeper = _make_keeper(job, environment, should_stop, progress)
    state = keeper.state
    try:
        while state.epoch < job.config.epochs and not state.best.should_stop(job.config, state.epoch):
            _run_epoch(job, keeper, environment, progress)
            keeper.after_epoch()
    except Stopped as stop:
        raise Stopped(f"{stop}; {_describe_interrupted_run(job, keeper, environment)}") from None
    if not job.cluster.is_leader:
        return TookPart(environment.hosts[0], digest(job.learner.parameters))
    tell_weights(job.cluster.size, digest(job.learner.parameters), progress)
    return _finalize(job, state, environment, started, Heeding(progress, should_stop, f"after {state}"))


def _make_keeper(job: Job, environment: Environment, should_stop: Callable[[], bool], progress: Progress) -> Keeper:
    """Load the newest checkpoint, if there is one, and return the object that saves the next ones."""
    state, notes, checkpoints = TrainState(fingerprint=job.fingerprint), [], None
    if environment.checkpoint_dir:
        checkpoints = Checkpoints(environment.checkpoint_dir, circumstances(job.config, job.learner.devices))
        state, notes = checkpoints.restore(job.fingerprint, job.learner, environment.model_dir)
        refuse_fewer_epochs(environment.checkpoint_dir, state, job.config.epochs)
    if state.best.epoch >= 0:
        _export(job, environment, progress)
    for note in notes:
        progress.say(note)
    state = same_start(job.cluster, state, job.learner, job.fingerprint)
    job.learner.begin(job.config, len(job.train_loader), state.epoch, state.tally.steps)
    minutes = job.config.checkpoint_minutes
    return Keeper(state, job.learner, environment.model_dir, checkpoints, minutes, should_stop)


def _run_epoch(job: Job, keeper: Keeper, environment: Environment, progress: Progress) -> None:
    """Run the remaining steps of an epoch, evaluate if due, and log the results."""
    state = keeper.state
    with divergence_told(state):
        row = _train_epoch(job, keeper, progress)
        done = state.epoch + 1
        if done % job.config.validation_interval == 0 or done == job.config.epochs:
            _validate(job, keeper, row, environment, progress)
    steps = state.tally.steps
    state.end_epoch(row)
    tell_epoch(job.config, steps, state, environment, progress)


def _describe_interrupted_run(job: Job, keeper: Keeper, environment: Environment) -> str:
    """Describe what a stopped run leaves behind; save unscored weights if there is no model yet."""
    state = keeper.state
    if not job.cluster.is_leader:
        return "the first host has the model"
    if state.best.epoch < 0 and (environment.model_dir / CONFIG).exists():
        model = f"nothing was scored yet; {environment.model_dir} holds the model that was there before"
    elif state.best.epoch < 0:
        job.saved_model(state.epoch, {}).save(environment.model_dir, job.answering_net, state.history)
        model = f"its weights, not yet scored, are in {environment.model_dir}"
    else:
        model = f"the model of epoch {state.best.epoch + 1} is in {environment.model_dir}"
    return f"{model}; run the same command again to resume" if keeper.checkpoints else model


def _train_epoch(job: Job, keeper: Keeper, progress: Progress) -> Dict[str, Any]:
    """Run the remaining steps of an epoch; return its row of the history."""
    state, steps = keeper.state, len(job.train_loader)
    epoch, steps_done = state.epoch, state.tally.steps
    rates = course(job.config, epoch, steps)
    name = f"epoch {epoch + 1}/{job.config.epochs}"
    batches = progress.track(job.train_loader.epoch(epoch, steps_done), steps - steps_done, name)
    result = train_one_epoch(job.learner, batches, rates, state.tally, keeper.between_steps)
    cluster = job.cluster  # streams of hosts may differ in length; each loader warns of its own
    if result["steps"] < steps and cluster.size > 1 and cluster.exchange.together:
        progress.warn(f"{name}: found {result['steps']} batches on every host, expected {steps}: the epoch ends early")
    if epoch == 0 and job.cache is not None:
        progress.say(f"kept in memory: {job.cache}")
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


def _validate(job: Job, keeper: Keeper, row: Dict[str, Any], environment: Environment, progress: Progress) -> None:
    """Evaluate, add the scores to `row`, and save the model if it is the best."""
    state = keeper.state
    result = job.cluster.by_leader(lambda: _score(job, keeper, progress))
    row.update(result["row"])
    if state.best.update(row, state.history, job.config) and job.cluster.is_leader:
        history = [*state.history, row]
        job.saved_model(row["epoch"], result["scores"]).save(environment.model_dir, job.answering_net, history)
        _export(job, environment, progress)


def _score(job: Job, keeper: Keeper, progress: Progress) -> Dict[str, Any]:
    """Evaluate on the validation data; return the figures for the history and all scores."""
    batches = keeper.watched(progress.track(job.validation_loader, len(job.validation_loader), "validation"))
    scores, smooth_l1, _ = evaluate(job.evaluator, batches, job.class_names)
    row = {"VOC07": scores.voc07, "mAP": scores.coco, "mAP@0.5": scores.ap50, "val_SmoothL1": smooth_l1}
    return {"row": row, "scores": scores.to_json()}


def _export(job: Job, environment: Environment, progress: Progress) -> None:
    keep_deployable(environment.model_dir, job.validation_loader, job.config, progress)


def _finalize(job: Job, state: TrainState, environment: Environment, started: str, progress: Progress) -> Trained:
    """Save the whole history, evaluate the saved best model, and write the report."""
    if state.best.epoch < 0:
        raise SsdTrainError("training: no epoch was scored, expected at least one validation image with a box")
    best = SavedModel.load(environment.model_dir)
    write_history(environment.model_dir, state.history)
    _export(job, environment, progress)
    scores, predictions = _score_best(job, best, progress)
    report = environment.output_dir / REPORT
    write_report(report, _report_data(job, state, started, scores, predictions))
    return Trained(environment.model_dir, report, scores, state.best.epoch, state.epoch)


def _score_best(job: Job, best: SavedModel, progress: Progress) -> "Tuple[Scores, List[Tuple[Record, Detections]]]":
    """Evaluate the best model as read back from its folder, so that the report shows the model the user gets."""
    device = job.learner.devices[0]
    evaluator = Evaluator(best.build(device), best.config, device, best.post_nms)
    batches = progress.track(job.validation_loader, len(job.validation_loader), "scoring the best model")
    scores, _, predictions = evaluate(evaluator, batches, job.class_names)
    return scores, predictions


def _report_data(
    job: Job, state: TrainState, started: str, scores: Scores, predictions: "List[Tuple[Record, Detections]]"
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
        versions=framework.versions(),
        history=[{**row, "epoch": row["epoch"] + 1} for row in state.history],  # people count from 1
        scores=scores.to_json(),
        curves={name: curve._asdict() for name, curve in scores.curves.items()},
        data=[summarise("train", job.train.labels), summarise("validation", job.validation.labels)],
        samples=[Sample(r.basename, image, r, detections) for image, (r, detections) in zip(images, predictions)],
        best_epoch=state.best.epoch + 1,
        threshold=scores.best_f1.threshold if scores.best_f1 and scores.best_f1.threshold else PICTURE_THRESHOLD,
    )
