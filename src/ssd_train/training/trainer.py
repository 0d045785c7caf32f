"""Train a detector: read the data, run the epochs, save the best model."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, TypeVar, Union

from ssd_train import sagemaker_metrics
from ssd_train.artifacts.model_config import CONFIG
from ssd_train.artifacts.saved_model import SavedModel, write_history
from ssd_train.config import TrainConfig
from ssd_train.devices import explain_out_of_memory
from ssd_train.environment import Environment
from ssd_train.errors import SsdTrainError, TrainingDiverged, TrainingInterrupted
from ssd_train.progress import Progress
from ssd_train.storage.atomic import require_writable
from ssd_train.storage.lock import exclusive_lock
from ssd_train.training.checkpoint import Checkpoints, TrainState, broadcast_state, runtime_info
from ssd_train.training.data_setup import Splits
from ssd_train.training.distributed.communicator import Communicator, init_distributed
from ssd_train.training.engine import Evaluation, Evaluator, evaluate, train_one_epoch
from ssd_train.training.schedule import epoch_learning_rates
from ssd_train.training.setup import TrainingSetup, build_setup
from ssd_train.training.step import digest

Item = TypeVar("Item")


class InterruptibleProgress(Progress):
    """Progress that raises TrainingInterrupted when a stop was requested; used outside the training loop.

    Args:
        progress: the progress to wrap.
        should_stop: returns True if a stop was requested.
        when: the stage of the run, for the message.
    """

    def __init__(self, progress: Progress, should_stop: Callable[[], bool], when: str) -> None:
        self._progress, self._should_stop, self._when = progress, should_stop, when
        self.info, self.warning = progress.info, progress.warning  # type: ignore[method-assign]  # as wrapped

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items; raise TrainingInterrupted between two of them on request."""
        with _closing(self._progress.track(items, total, what)) as tracked:
            yield from raise_if_stopped(tracked, self._should_stop, self._when)


def raise_if_stopped(items: Iterable[Item], should_stop: Callable[[], bool], when: str) -> Iterator[Item]:
    """Yield the items; raise TrainingInterrupted between two of them on request."""
    for item in items:
        if should_stop():
            raise TrainingInterrupted(f"stopped on request {when}")
        yield item


class CheckpointCallback:
    """Saves checkpoints and handles stop requests.

    Args:
        state: the training state to save.
        train_step: holds the weights and the optimizer.
        model_dir: folder of the best model.
        checkpoints: where states are saved; None: nowhere.
        minutes: time between two checkpoints within an epoch; 0: none within epochs.
        should_stop: returns True if a stop was requested.
    """

    def __init__(
        self,
        state: TrainState,
        train_step: Any,
        model_dir: Path,
        checkpoints: Optional[Checkpoints],
        minutes: float,
        should_stop: Callable[[], bool],
    ) -> None:
        self.state, self.train_step, self.model_dir = state, train_step, model_dir
        self.checkpoints, self.minutes, self.should_stop = checkpoints, minutes, should_stop
        self._saved = time.monotonic()

    def save(self) -> None:
        """Save the state now."""
        if self.checkpoints:
            self.checkpoints.save(self.state, self.train_step, self.model_dir)
        self._saved = time.monotonic()

    def on_step_end(self) -> None:
        """Save if it is due; on request, save and raise TrainingInterrupted, on all hosts after the same step.

        With dist_async, hosts do not step together and stop only between epochs.
        """
        if self.train_step.cluster.exchange.together:
            self.raise_if_stop_requested()
        if self.train_step.cluster.allreduce_step([self._is_due()])[0]:
            self.save()

    def _is_due(self) -> bool:
        elapsed = time.monotonic() - self._saved
        return bool(self.checkpoints and self.minutes) and elapsed >= 60 * self.minutes

    def on_epoch_end(self) -> None:
        """Save; with dist_async, stop here if any host has a request."""
        self.save()
        if not self.train_step.cluster.exchange.together:
            self.raise_if_stop_requested()

    def raise_if_stop_requested(self) -> None:
        """If any host has a stop request, save and raise TrainingInterrupted; all hosts must call this together."""
        if self.train_step.cluster.allreduce_any(self.should_stop()):
            self.save()
            raise TrainingInterrupted(f"stopped on request after {self.state}")

    def interruptible(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield `items`; on a single host, stop between two of them on request."""
        for item in items:
            if self.train_step.cluster.size == 1:
                self.raise_if_stop_requested()
            yield item


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


@dataclass(frozen=True)
class WorkerResult:
    """Result on a rank other than 0: the SHA-256 of the final weights, and the host that has the model."""

    main_host: str
    weights: str


class Trainer:
    """A training run: what it was built from, its state, its folders and its progress.

    Args:
        setup: data, network, training step and loaders.
        environment: output folders and hosts.
        progress: receives log lines and warnings.
        should_stop: called between steps; training stops when it returns True.

    Attributes:
        state: epochs and steps done, history and best epoch; that of the newest checkpoint, if there is one.
        best: the evaluation of the best model, None before the first one and after a resume.
        has_model: True if the model folder has a model of this run.
        on_epoch_end: functions that rank 0 calls with the history after each epoch.
    """

    def __init__(
        self, setup: TrainingSetup, environment: Environment, progress: Progress, should_stop: Callable[[], bool]
    ) -> None:
        self.setup, self.environment = setup, environment
        self.progress, self.should_stop = progress, should_stop
        self.best: Optional[Evaluation] = None
        self.on_epoch_end: List[Callable[[List[Dict[str, Any]]], None]] = []
        checkpoints, self.state = self._restore()
        self.has_model = self.state.best.epoch >= 0
        setup.train_step.start(setup.config, len(setup.train_loader), self.state.epoch, self.state.meter.steps)
        self.callback = CheckpointCallback(
            self.state,
            setup.train_step,
            environment.model_dir,
            checkpoints,
            setup.config.checkpoint_minutes,
            should_stop,
        )

    def _restore(self) -> Tuple[Optional[Checkpoints], TrainState]:
        """Load the newest checkpoint on rank 0, if there is one, and copy it to all ranks."""
        setup, checkpoints = self.setup, None
        state = TrainState(fingerprint=setup.fingerprint)
        if self.environment.checkpoint_dir:
            info = runtime_info(setup.config, setup.train_step.devices)
            checkpoints = Checkpoints(self.environment.checkpoint_dir, info)
            state, notes = checkpoints.restore(
                setup.fingerprint, setup.train_step, self.environment.model_dir, setup.config.epochs
            )
            for note in notes:
                self.progress.info(note)
        return checkpoints, broadcast_state(setup.cluster, state, setup.train_step, setup.fingerprint)

    def fit(self) -> Union[Evaluation, WorkerResult]:
        """Run the remaining epochs.

        Returns:
            The evaluation of the best model as read back from its folder, which is the model that the user gets; a
            WorkerResult on ranks other than 0.

        Raises:
            TrainingDiverged: the loss, the gradient or the weights are not finite.
            TrainingInterrupted: `should_stop` returned True; the state is saved.
        """
        config, state = self.setup.config, self.state
        try:
            while state.epoch < config.epochs and not state.best.should_stop(config, state.epoch):
                self._run_epoch()
                self.callback.on_epoch_end()
            return self._finalize()
        except TrainingInterrupted as stop:
            raise TrainingInterrupted(f"{stop}; {self._describe_interrupted_run()}") from None

    def _finalize(self) -> Union[Evaluation, WorkerResult]:
        state = self.state
        weights = digest(self.setup.train_step.parameters)
        if not self.setup.cluster.is_main_process:
            return WorkerResult(self.environment.hosts[0], weights)
        hosts = self.setup.cluster.size
        if hosts > 1:
            self.progress.info(f"weights at the end, on all {hosts} hosts: SHA-256 {weights[:12]}")
        if state.best.epoch < 0:
            raise SsdTrainError(
                "training: no epoch was scored, expected a validation image with a box, or more --epochs"
            )
        write_history(self.environment.model_dir, state.history)
        return self._evaluate_best()

    def _run_epoch(self) -> None:
        """Run the remaining steps of an epoch, evaluate if due, and log the results."""
        config, state = self.setup.config, self.state
        with annotate_divergence(state):
            row = self._train_epoch()
            done = state.epoch + 1
            if done % config.validation_interval == 0 or done == config.epochs:
                self._validate(row)
        steps = state.meter.steps
        state.end_epoch(row)
        log_epoch(config, steps, state, self.environment, self.progress)
        for function in self.on_epoch_end if self.setup.cluster.is_main_process else ():
            function(state.history)

    def _train_epoch(self) -> Dict[str, Any]:
        """Run the remaining steps of an epoch; return its row of the history."""
        setup, state, steps = self.setup, self.state, len(self.setup.train_loader)
        epoch, steps_done = state.epoch, state.meter.steps
        rates = epoch_learning_rates(setup.config, epoch, steps)
        name = f"epoch {epoch + 1}/{setup.config.epochs}"
        with _closing(
            self.progress.track(setup.train_loader.epoch(epoch, steps_done), steps - steps_done, name)
        ) as batches:
            result = train_one_epoch(setup.train_step, batches, rates, state.meter, self.callback.on_step_end)
        # streams of hosts may differ in length; each loader warns of its own
        if result["steps"] < steps and setup.cluster.size > 1 and setup.cluster.exchange.together:
            self.progress.warning(
                f"{name}: found {result['steps']} batches on every host, expected {steps}: the epoch ends early"
            )
        if epoch == 0 and setup.cache is not None:
            self.progress.info(f"kept in memory: {setup.cache}")
        return {
            "epoch": epoch,
            "CrossEntropy": result["CrossEntropy"],
            "SmoothL1": result["SmoothL1"],
            "learning_rate": rates[state.meter.steps - 1],
            "steps": result["steps"],
            "clipped_steps": result["clipped"],
            "images_per_second": round(result["images"] / result["seconds"], 3),
            "seconds": round(result["seconds"], 3),
            "data_seconds": round(result["data_seconds"], 3),
        }

    def _validate(self, row: Dict[str, Any]) -> None:
        """Evaluate on rank 0, add the scores to `row`, and save the model if it is the best."""
        evaluations: List[Evaluation] = []

        def score() -> Dict[str, Any]:
            evaluation = self._evaluate(self.setup.evaluator, "validation", self.callback.interruptible)
            evaluations.append(evaluation)
            scores = evaluation.scores
            return {
                "VOC07": scores.voc07,
                "mAP": scores.coco,
                "mAP@0.5": scores.ap50,
                "val_CrossEntropy": evaluation.cross_entropy,
                "val_SmoothL1": evaluation.smooth_l1,
            }

        row.update(self.setup.cluster.broadcast_from_rank0(score))
        if self.state.best.update(row, self.state.history, self.setup.config) and evaluations:
            self.best = evaluations[0]
            self._save(row["epoch"], self.best.scores.to_json(), [*self.state.history, row])

    def _evaluate(self, evaluator: Evaluator, name: str, watched: Callable[[Iterable[Any]], Iterator[Any]]) -> Any:
        loader = self.setup.validation_loader
        with _closing(self.progress.track(loader, len(loader), name)) as batches:
            return evaluate(evaluator, watched(batches), self.setup.class_names)

    def _evaluate_best(self) -> Evaluation:
        best = SavedModel.load(self.environment.model_dir)
        device = self.setup.train_step.devices[0]
        evaluator = Evaluator(best.build(device), best.config, device, best.post_nms)
        when = f"after {self.state}"
        return self._evaluate(
            evaluator,
            "scoring the best model",
            lambda batches: raise_if_stopped(batches, self.should_stop, when),
        )

    def _save(self, epoch: int, scores: Dict[str, Any], history: List[Dict[str, Any]]) -> None:
        self.setup.saved_model(epoch, scores).save(self.environment.model_dir, self.setup.eval_net, history)
        self.has_model = True

    def _describe_interrupted_run(self) -> str:
        """Describe what a stopped run leaves behind; save unscored weights if there is no model yet."""
        state, folder = self.state, self.environment.model_dir
        if not self.setup.cluster.is_main_process:
            return "the first host has the model"
        if state.best.epoch < 0 and (folder / CONFIG).exists():
            model = f"nothing was scored yet; {folder} holds the model that was there before"
        elif state.best.epoch < 0:
            self._save(state.epoch, {}, state.history)
            model = f"its weights, not yet scored, are in {folder}"
        else:
            model = f"the model of epoch {state.best.epoch + 1} is in {folder}"
        if self.callback.checkpoints:
            return f"{model}; run the same command again to resume"
        return f"{model}; a run with --checkpoint_dir could go on; the same command with --overwrite begins again"


@contextlib.contextmanager
def _closing(batches: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """Close an iterator at the end of the block, so that a progress bar ends before an error is reported."""
    try:
        yield batches
    finally:
        getattr(batches, "close", lambda: None)()


@contextlib.contextmanager
def open_trainer(
    config: TrainConfig,
    environment: Environment,
    progress: Progress,
    should_stop: Callable[[], bool],
    splits: Optional[Splits] = None,
) -> Iterator[Trainer]:
    """Connect the hosts, lock the folders, read the data and build the network; yield the Trainer.

    On several hosts, every host calls this function; rank 0 writes the results. The folders stay locked and the hosts
    connected within the block.

    Args:
        config: settings of the run.
        environment: input and output folders, hosts and devices.
        progress: receives log lines and warnings.
        should_stop: called between steps; training stops when it returns True.
        splits: training and validation data; None: those that the environment names.

    Raises:
        SsdTrainError: bad settings or data, before the first step.
    """
    config, cluster = init_distributed(config, environment, progress)
    progress = cluster.rank0_progress(progress)
    with cluster, explain_out_of_memory(config):
        environment = _own_folders(environment, cluster)
        own = cluster.is_main_process and not environment.on_sagemaker  # a job's model folder is its own
        model_lock = exclusive_lock(environment.model_dir if own else None, progress, "model_dir", keep=False)
        with model_lock, exclusive_lock(environment.checkpoint_dir, progress):
            setup = build_setup(
                config,
                environment,
                InterruptibleProgress(progress, should_stop, "before the first step; run the same command again"),
                cluster,
                splits,
            )
            if environment.on_sagemaker:  # as the built-in algorithm does
                line = sagemaker_metrics.configuration_line(setup.config.to_json())
                progress.info(sagemaker_metrics.stamped(line))
            yield Trainer(setup, environment, progress, should_stop)


def _own_folders(environment: Environment, cluster: Communicator) -> Environment:
    """Check on rank 0 that the output folders are writable; drop the checkpoint folder on other ranks."""
    if not cluster.is_main_process:
        return dataclasses.replace(environment, checkpoint_dir=None)
    for folder in filter(None, (environment.model_dir, environment.output_dir, environment.checkpoint_dir)):
        require_writable(folder)
    return environment
