"""train --dry_run: what a run would read, build and cost, measured without training or writing anything."""

from __future__ import annotations

import dataclasses
import resource
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable, List

from ssd_train.config import TrainConfig
from ssd_train.environment import Environment, available_memory, detect_launcher
from ssd_train.errors import ConfigError
from ssd_train.progress import Progress

if TYPE_CHECKING:
    from ssd_train.training.setup import TrainingSetup

UNTIMED, TIMED = 2, 8  # steps: the first ones also choose algorithms and allocate memory


def dry_run(
    config: TrainConfig,
    environment: Environment,
    progress: Progress,
    check: "Callable[[TrainingSetup, Environment], None]",
) -> None:
    """Check the data, build the network, make some steps in memory, and report the settings and costs of the run.

    Args:
        config: settings of the run.
        environment: input and output folders, and devices.
        progress: receives the lines of the report.
        check: called before the steps; raises what the run would be refused for.

    Raises:
        SsdTrainError: as train, before its first step.
    """
    from ssd_train.training.setup import build_setup

    processes = max(len(environment.hosts), detect_launcher()[1])
    if processes > 1 or environment.pipes:
        where = "channels in Pipe mode" if environment.pipes else f"{processes} processes"
        raise ConfigError(f"dry_run: found {where}, expected one process that reads files")
    setup = build_setup(config, environment, progress)
    check(setup, environment)
    for line in [*settings_lines(setup.config), *network_lines(setup), *cost_lines(setup, progress)]:
        progress.info(line)
    progress.info(f"dry run: nothing was trained or written; the model would be in {environment.model_dir}")


def settings_lines(config: TrainConfig) -> List[str]:
    """Return a line with the settings that are not the defaults."""
    changed = {
        item.name: getattr(config, item.name)
        for item in dataclasses.fields(config)
        if getattr(config, item.name) != item.default
    }
    return [f"settings other than the defaults: {', '.join(f'{name} {value}' for name, value in changed.items())}"]


def network_lines(setup: "TrainingSetup") -> List[str]:
    """Return a line about the network: size, anchors, frozen tensors."""
    from ssd_train.model.anchors import anchor_layout, make_anchors

    config = setup.config
    parameters = setup.net._collect_params_with_prefix()
    numbers = sum(parameter.data(parameter.list_ctx()[0]).size for parameter in parameters.values())
    anchors = make_anchors(anchor_layout(config.base_network, config.image_shape, config.anchor_scales))
    classes = len(setup.class_names)
    return [
        f"network: {config.base_network} at {config.image_shape} px, {classes} class{'es' if classes > 1 else ''}, "
        f"{numbers / 1e6:.1f} million parameters, {len(anchors)} anchors"
    ]


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
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    text = f"{used / 1e9:.1f} GB used, {available_memory() / 1e9:.1f} GB free"
    cache = setup.cache
    if cache is not None and len(cache):
        full = min(cache.bytes_used * len(setup.train.labels) // len(cache), cache.max_bytes)
        text += f"; decoded training images will take {full / 1e9:.2f} GB of at most {cache.max_bytes / 1e9:.2f} GB"
    gpus = [device for device in setup.train_step.devices if device.device_type == "gpu"]
    for device, (free, whole) in zip(gpus, map(_gpu_memory, gpus)):
        text += f"; {device}: {(whole - free) / 1e9:.1f} of {whole / 1e9:.1f} GB used"
    return text


def _gpu_memory(device: Any) -> "tuple[int, int]":
    from ssd_train import mxnet_compat

    return mxnet_compat.mxnet().context.gpu_memory_info(device.device_id)
