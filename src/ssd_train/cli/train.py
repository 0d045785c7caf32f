"""The command train."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import importlib.util
import json
import os
import resource
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from ssd_train import __version__
from ssd_train.cli.arguments import Parser, add_fetch_flag, boolean, make_progress, program
from ssd_train.cli.config_file import config_text
from ssd_train.cli.paths import add_input, add_output_dir, local_dir, staged_s3_paths
from ssd_train.config import TrainConfig, current_names, describe_preset
from ssd_train.environment import (
    CHANNELS,
    Environment,
    available_memory,
    detect_launcher,
    is_hosted,
    sagemaker_hyperparameters,
)
from ssd_train.errors import ConfigError, TrainingDiverged, TrainingInterrupted
from ssd_train.evaluation.metrics import score_detections
from ssd_train.evaluation.results import FIXED_SCORE, Scores
from ssd_train.progress import Progress
from ssd_train.redaction import redact
from ssd_train.storage.atomic import write_text_atomic

USED_CONFIG = "config.yaml"  # in output_dir
SIGNAL_EXIT = 128  # plus the number of the signal: exit code of shells

if TYPE_CHECKING:
    from ssd_train.deploy.detector import Detector
    from ssd_train.training.engine import Evaluation
    from ssd_train.training.setup import TrainingSetup
    from ssd_train.training.trainer import Trainer, WorkerResult
    from ssd_train.visualization.report_data import ReportData


REPORT = "report.html"


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training run on rank 0.

    Attributes:
        scores: of the best model on the validation data.
        model_dir: folder of the best model.
        report: the HTML report.
        best_epoch: the epoch of the best model, counted from 1.
        epochs: number of epochs that were run.
    """

    scores: Scores
    model_dir: Path
    report: Path
    best_epoch: int
    epochs: int

    @functools.cached_property
    def detector(self) -> "Detector":
        """Return the best model, loaded when it is first used."""
        from ssd_train.deploy.detector import Detector

        return Detector(self.model_dir)


def run(arguments: Sequence[str]) -> int:
    """Train a detector; in a SageMaker job, flags override the job's settings."""
    parser = make_parser()
    hosted = sagemaker_hyperparameters() if is_hosted() else {}
    known, settings = parser.parse_settings([*_take_flags(hosted, parser, arguments), *arguments])
    only_dry = vars(known).pop("dry_run", False)
    given = {name: value for name, value in vars(known).items() if name != "overwrite"}  # for config.yaml
    # invalid settings are reported before anything is downloaded
    config, environment = _read(vars(known), hosted, settings, parser, make_progress())
    with staged_s3_paths(known) as progress:
        environment = dataclasses.replace(environment, **vars(known), command=command_line("train", arguments))
        if only_dry:
            dry_run(config, environment, progress)
            return 0
        title = f"ssd_train {__version__}: the flags and settings of this run, for train --config"
        used = redact(config_text({**given, **config.to_json()}, title))
        with StopRequests() as requests:
            try:
                trained = train(config, environment, progress, requests)
            except (TrainingInterrupted, TrainingDiverged):
                if (environment.output_dir / REPORT).exists():
                    write_text_atomic(environment.output_dir / USED_CONFIG, used)
                raise
        if not isinstance(trained, TrainingResult):
            progress.info(
                f"this host has finished: final weights SHA-256 {trained.weights[:12]}; "
                f"the model is on {trained.main_host}"
            )
            return 0
        write_text_atomic(environment.output_dir / USED_CONFIG, used)
        for line in trained.scores.lines():
            progress.info(line)
        progress.info(f"report: {trained.report}")
        progress.info(summary(trained))
        if not environment.on_sagemaker:
            for line in next_steps(trained.model_dir):
                progress.info(line)
    return 0


def train(
    config: TrainConfig,
    environment: Environment,
    progress: Optional[Progress] = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> "Union[TrainingResult, WorkerResult]":
    """Train a detector, export the best model and write the report; resume if there is a checkpoint.

    A run that is stopped or diverges leaves the files of its best model, too.

    Args:
        config: settings of the run.
        environment: input and output folders, hosts and devices.
        progress: receives log lines and warnings; None: they are dropped.
        should_stop: called between steps; training stops when it returns True.

    Returns:
        A TrainingResult on rank 0, a WorkerResult on other hosts.

    Raises:
        SsdTrainError: bad settings or data, before the first step.
        TrainingDiverged: the loss, the gradient or the weights are not finite.
        TrainingInterrupted: `should_stop` returned True; the state is saved.
    """
    from ssd_train.training.trainer import WorkerResult, open_trainer
    from ssd_train.visualization.training_log import EVENTS, METRICS, TensorBoardLog, write_metrics

    progress = progress or Progress()
    started = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
    with contextlib.ExitStack() as stack:
        # before the data is read: TensorBoard may be missing
        tensorboard = stack.enter_context(TensorBoardLog(environment.output_dir / EVENTS)) if environment.log else None
        trainer = stack.enter_context(open_trainer(config, environment, progress, should_stop))
        refuse_other_report(trainer.setup, environment)
        trainer.on_epoch_end.append(lambda history: write_metrics(environment.output_dir / METRICS, history))
        if tensorboard is not None:
            trainer.on_epoch_end.append(tensorboard.log)
        try:
            best = trainer.fit()
        except (TrainingInterrupted, TrainingDiverged) as error:
            if trainer.setup.cluster.is_main_process and trainer.has_model:
                # model.onnx last: a host that is taken back gives two minutes, and a person at a terminal fewer
                export_model(trainer, with_onnx=False)
                partial = trainer.best and add_details(trainer.best, trainer)
                progress.info(f"report: {write_run_report(trainer, partial, started, f'The run ended early: {error}')}")
                if not environment.on_sagemaker:
                    export_model(trainer, with_onnx=True)
            raise
        if isinstance(best, WorkerResult):
            return best
        # a job's archive holds what an endpoint needs
        export_model(trainer, with_onnx=not environment.on_sagemaker)
        best = add_details(best, trainer)
        report = write_run_report(trainer, best, started)
        return TrainingResult(
            best.scores, environment.model_dir, report, trainer.state.best.epoch + 1, trainer.state.epoch
        )


def refuse_other_report(setup: "TrainingSetup", environment: Environment) -> None:
    """Raise a ConfigError if the run would replace the report of another run without --overwrite."""
    from ssd_train.visualization.report import check_report

    if setup.cluster.is_main_process and not (environment.on_sagemaker or environment.overwrite):
        check_report(environment.output_dir / REPORT, run_id(setup.fingerprint))


def run_id(fingerprint: Mapping[str, Any]) -> str:
    """Return the identity of a run, which its report states: a hash of its settings, classes and labels."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def add_details(evaluation: "Evaluation", trainer: "Trainer") -> "Evaluation":
    """Return an evaluation whose scores have the details that validation in training leaves out."""
    setup = trainer.setup
    overlap = setup.config.overlap_threshold
    return evaluation._replace(
        scores=score_detections(evaluation.predictions, setup.class_names, overlap, detailed=True)
    )


def command_line(command: str, arguments: Sequence[str]) -> str:
    """Return the command line that starts `command`, without secrets."""
    return redact(" ".join(["ssd-train", command, *map(shlex.quote, arguments)]))


def export_model(trainer: "Trainer", with_onnx: bool) -> None:
    """Write the deployment files of the best model of a run, unless they are there; `with_onnx`: and model.onnx."""
    from ssd_train.deploy.deployment import export_best_model

    model_dir = trainer.environment.model_dir
    export_best_model(model_dir, trainer.setup.validation_loader, trainer.setup.config, trainer.progress, with_onnx)


def write_run_report(trainer: "Trainer", best: "Optional[Evaluation]", started: str, note: str = "") -> Path:
    """Write the report of a run; return its path.

    Args:
        trainer: the run.
        best: the evaluation of its best model; None: the report shows the scores in its config.json and no images.
        started: date and time of the start.
        note: a remark on the whole run, for the report.
    """
    from ssd_train.visualization.report import write_report

    report = trainer.environment.output_dir / REPORT
    data = _report_data(trainer, best, started)
    write_report(report, dataclasses.replace(data, notes=(note,) if note else ()))
    return report


def _report_data(trainer: "Trainer", best: "Optional[Evaluation]", started: str) -> "ReportData":
    from ssd_train import mxnet_compat
    from ssd_train.artifacts.model_config import read_model_config
    from ssd_train.visualization.report_data import ReportData, Sample, report_title, summarise

    setup, data = trainer.setup, trainer.setup.validation_loader.dataset
    scores = None if best is None else best.scores
    predictions = [] if best is None else best.predictions
    indices = {id(record): index for index, record in enumerate(data.labels.records)}
    # unreadable images have no detections, so `predictions` may lack some records
    shown = [indices[id(record)] for record, _ in predictions]
    images = [lambda index=index: data[index][0] for index in shown]
    shown_scores = read_model_config(trainer.environment.model_dir)["scores"] if scores is None else scores.to_json()
    threshold = (shown_scores.get("best_f1") or {}).get("threshold")
    return ReportData(
        run_id=run_id(setup.fingerprint),
        title=report_title(setup.class_names, trainer.environment.train),
        class_names=setup.class_names,
        started=started,
        command=trainer.environment.command,
        seconds=sum(row.get("seconds", 0.0) for row in trainer.state.history),
        random_weights=not (setup.config.use_pretrained_model or trainer.environment.pretrained),
        settings=setup.config.to_json(),
        versions=mxnet_compat.versions(),
        history=[{**row, "epoch": row["epoch"] + 1} for row in trainer.state.history],  # people count from 1
        scores=shown_scores or None,
        curves={} if scores is None else {name: curve._asdict() for name, curve in scores.curves.items()},
        score_curve=scores.score_curve._asdict() if scores is not None and scores.score_curve else None,
        data=[summarise("train", setup.train.labels), summarise("validation", setup.validation.labels)],
        samples=[Sample(r.basename, image, r, detections) for image, (r, detections) in zip(images, predictions)],
        best_epoch=trainer.state.best.epoch + 1 if trainer.state.best.epoch >= 0 else None,
        threshold=FIXED_SCORE if threshold is None else threshold,
    )


def _take_flags(hosted: Dict[str, str], parser: Parser, arguments: Sequence[str]) -> List[str]:
    """Remove the flags of train that are no settings from the hyperparameters `hosted`, and return them as arguments.

    The toolkit passes them so. Those that are in `arguments` are left out.
    """
    given = {argument.partition("=")[0] for argument in arguments}
    flags = []
    for action in parser._actions:
        for flag in action.option_strings if action.dest not in (*parser.settings, "help") else ():
            value = hosted.pop(flag[2:], None)
            if value is not None and flag not in given:
                flags.append(f"{flag}={value}")
    return flags


def _read(
    flags: Mapping[str, Any],
    hosted: Mapping[str, str],
    settings: Mapping[str, str],
    parser: Parser,
    progress: Progress,
) -> "Tuple[TrainConfig, Environment]":
    """Return settings and environment; raises one ConfigError with the errors of both."""
    faults: List[str] = []
    config = environment = None
    try:
        given = {**current_names(hosted), **current_names(settings)}
        config = TrainConfig.from_mapping(given, progress.warning, parser.names - parser.settings)
    except ConfigError as fault:
        faults.append(str(fault))
    try:
        environment = _environment(flags)
    except ConfigError as fault:
        faults.append(str(fault))
    if config is None or environment is None:
        raise ConfigError("; ".join(faults))
    if config.recipe:
        progress.info(describe_preset(config.recipe, config.to_json()))
    for name in environment.unused_channels:
        progress.warning(f"channel {name!r} is not used, expected one of {', '.join(sum(CHANNELS.values(), ()))}")
    return config, environment


def _environment(flags: Mapping[str, Any]) -> Environment:
    if is_hosted():
        return Environment.from_sagemaker(flags)
    if "train" not in flags:
        raise ConfigError("train: found no --train, expected a folder of images or a .rec file")
    return Environment(**flags)


class StopRequests:
    """Context manager that turns SIGTERM and Ctrl-C into a stop request; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._at_once = False  # after the second Ctrl-C
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> "StopRequests":
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, TrainingInterrupted):
            if self.signal:  # it may have reached another host only
                error.exit_code = SIGNAL_EXIT + self.signal
        elif self._at_once and isinstance(error, Exception):
            # raised during an import of compiled code, KeyboardInterrupt becomes an ImportError
            raise KeyboardInterrupt from error

    def __call__(self) -> bool:
        return bool(self.signal)

    def _handle(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self.signal:
            self._at_once = True
            raise KeyboardInterrupt
        self.signal = number
        text = "stopping after this step; press Ctrl-C again to stop immediately\n"
        if sys.stderr.isatty():
            text = f"\n{text}"  # below a progress bar
        try:
            os.write(sys.stderr.fileno(), text.encode())  # print may be interrupted in the middle of another print
        except (OSError, ValueError):  # a notebook's stderr has no descriptor
            print(text, end="", file=sys.stderr, flush=True)


def summary(trained: TrainingResult) -> str:
    """Return the result of a run in one line."""
    figures = (("COCO mAP", trained.scores.coco), ("VOC07 mAP", trained.scores.voc07))
    scores = ", ".join(f"{name} {'none' if value is None else f'{value:.4f}'}" for name, value in figures)
    return (
        f"training is complete: best model of epoch {trained.best_epoch} of {trained.epochs}: {scores}; "
        f"saved in {trained.model_dir}"
    )


def next_steps(model_dir: Path) -> List[str]:
    """Return the commands that use the model in `model_dir`, with the extras that they lack."""
    model = f"--model {shlex.quote(str(model_dir))}"
    steps = (
        (f"predict MORE_IMAGES {model} --overlays overlays", "", ""),
        (f"evaluate {model} --images IMAGES --labels LABELS", "", ""),
        (f"serve {model}", "serve", "starlette"),
        (f"export {model} --format onnx --output model.onnx", "onnx", "onnx"),
    )
    lines = []
    for step, extra, module in steps:
        missing = module and importlib.util.find_spec(module) is None
        lines.append(f"next: {program(step)}" + (f"  # pip install 'ssd-train[{extra}]'" if missing else ""))
    return lines


UNTIMED, TIMED = 2, 8  # steps of a dry run: the first ones also choose algorithms and allocate memory


def dry_run(
    config: TrainConfig,
    environment: Environment,
    progress: Progress,
) -> None:
    """Check the data, build the network, make some steps in memory, and report the settings and costs of the run.

    Args:
        config: settings of the run.
        environment: input and output folders, and devices.
        progress: receives the lines of the report.

    Raises:
        SsdTrainError: as train, before its first step.
    """
    from ssd_train.devices import explain_out_of_memory
    from ssd_train.training.setup import build_setup

    processes = max(len(environment.hosts), detect_launcher()[1])
    if processes > 1 or environment.pipes:
        where = "channels in Pipe mode" if environment.pipes else f"{processes} processes"
        raise ConfigError(f"dry_run: found {where}, expected one process that reads files")
    with explain_out_of_memory(config):
        setup = build_setup(config, environment, progress)
        refuse_other_report(setup, environment)
        for line in [settings_line(setup.config), network_line(setup), *cost_lines(setup, progress)]:
            progress.info(line)
    progress.info(f"dry run: nothing was trained or written; the model would be in {environment.model_dir}")


def settings_line(config: TrainConfig) -> str:
    """Return a line with the settings that are not the defaults."""
    values = ((item, getattr(config, item.name)) for item in dataclasses.fields(config))
    changed = [f"{item.name} {value}" for item, value in values if value != item.default]
    return f"settings other than the defaults: {', '.join(changed)}"


def network_line(setup: "TrainingSetup") -> str:
    """Return a line about the network: size, anchors, frozen tensors."""
    from ssd_train.model.anchors import layout_of, make_anchors

    config = setup.config
    parameters = setup.net._collect_params_with_prefix()
    numbers = sum(parameter.data(parameter.list_ctx()[0]).size for parameter in parameters.values())
    anchors = make_anchors(layout_of(config))
    classes = len(setup.class_names)
    return (
        f"network: {config.base_network} at {config.image_shape} px, {classes} class{'es' if classes > 1 else ''}, "
        f"{numbers / 1e6:.1f} million parameters, {len(anchors)} anchors"
    )


def cost_lines(setup: "TrainingSetup", progress: Progress) -> List[str]:
    """Return lines with memory and time, from some steps on the first images of each split."""
    from ssd_train.training.engine import train_one_epoch
    from ssd_train.training.schedule import epoch_learning_rates

    config, train_step, steps = setup.config, setup.train_step, len(setup.train_loader)
    train_step.start(config, steps, 0)
    rates = epoch_learning_rates(config, 0, steps)[: UNTIMED + TIMED]
    moments = [time.perf_counter()]
    batches = progress.track(islice(setup.train_loader.epoch(0), len(rates)), len(rates), "steps")
    train_one_epoch(train_step, batches, rates, after_step=lambda: moments.append(time.perf_counter()))
    first = min(UNTIMED, len(moments) - 2)
    step_seconds = (moments[-1] - moments[first]) / (len(moments) - 1 - first)
    start = time.perf_counter()
    timed = [setup.evaluator.predict(batch) for batch in islice(setup.validation_loader, TIMED)]
    batch_seconds = (time.perf_counter() - start) / len(timed)
    evaluations = -(-config.epochs // config.validation_interval) + 1  # and that of the best model at the end
    epoch_seconds = step_seconds * steps
    total = config.epochs * epoch_seconds + evaluations * batch_seconds * len(setup.validation_loader)
    return [
        f"steps: {steps} per epoch, {step_seconds:.2f} s each on average of {len(moments) - 1 - first}, "
        f"with {config.mini_batch_size} images",
        f"memory: {memory_text(setup)}",
        f"expected: {total / 60:.1f} minutes for {config.epochs} epochs, {epoch_seconds:.1f} s each, "
        f"and {evaluations} evaluations, {batch_seconds * len(setup.validation_loader):.1f} s each",
    ]


def memory_text(setup: "TrainingSetup") -> str:
    """Return the largest memory of this process so far, and that of the cache once it has all images."""
    from ssd_train import mxnet_compat

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    text = f"{used / 1e9:.1f} GB used, {available_memory() / 1e9:.1f} GB free"
    cache = setup.cache
    if cache is not None and len(cache):
        full = min(cache.bytes_used * len(setup.train.labels) // len(cache), cache.max_bytes)
        text += f"; decoded training images will take {full / 1e9:.2f} GB of at most {cache.max_bytes / 1e9:.2f} GB"
    for device in [device for device in setup.train_step.devices if device.device_type == "gpu"]:
        free, whole = mxnet_compat.mxnet().context.gpu_memory_info(device.device_id)
        text += f"; {device}: {(whole - free) / 1e9:.1f} of {whole / 1e9:.1f} GB used"
    return text


def make_parser() -> Parser:
    """Return the parser of the flags of Environment and of the settings of TrainConfig."""
    parser = Parser(
        prog=program("train"),
        usage=f"{program('train')} --train PATH [flags]",
        description="Train a detector. Without validation labels, a fraction of the images is held out. In a SageMaker "
        "training job, channels provide the folders and hyperparameters the flags.",
        argument_default=argparse.SUPPRESS,
    )
    titles = ("data", "outputs", "network", "augmentation", "optimization", "evaluation and stopping")
    data, outputs, network, *_ = [parser.group(title) for title in titles]
    add_input(data, "--train", "--images", help="folder of images, or a .rec with images and labels")
    add_input(
        data,
        "--labels",
        help="labels, a file or folder: Ground Truth manifest, COCO .json, or a folder of image+JSON, VOC or YOLO "
        "labels (default: those found in --train)",
    )
    add_input(data, "--validation", help="validation images, as --train (default: those of --train)")
    add_input(data, "--validation_labels", help="validation labels, as --labels")
    add_fetch_flag(data)
    add_output_dir(outputs, "--model_dir", help="default: model")
    add_output_dir(outputs, "--output_dir", help="report, metrics.csv and config.yaml; default: output")
    outputs.add_argument(
        "--log", choices=("tensorboard",), help="also log metrics there, in the folder tensorboard of --output_dir"
    )
    outputs.add_argument(
        "--checkpoint_dir", type=local_dir, metavar="FOLDER", help="folder of checkpoints, from which a run resumes"
    )
    outputs.add_argument(
        "--dry_run",
        type=boolean,
        nargs="?",
        const=True,
        metavar="BOOLEAN",
        help="read and check the data, build the network, time some steps; train and write nothing",
    )
    outputs.add_argument(
        "--overwrite",
        type=boolean,
        nargs="?",
        const=True,
        metavar="BOOLEAN",
        help="replace the model in --model_dir and the report in --output_dir, even if they are of another run",
    )
    add_input(
        network,
        "--pretrained",
        help="weights to start from: a .params file, a .safetensors file of timm or torchvision, a model folder or its "
        "model.tar.gz (default: the network of GluonCV's model zoo that --zoo names)",
    )
    add_input(
        network,
        "--weights_dir",
        metavar="FOLDER",
        help="folder with files of the model zoo, which is searched before GluonCV's cache and the zoo itself",
    )
    parser.group("devices and hosts").add_argument(
        "--devices", help="auto, cpu, gpu (all), gpu:1, or gpu:0,gpu:1; default: auto (all GPUs, else the CPU)"
    )
    parser.add_settings()
    return parser
