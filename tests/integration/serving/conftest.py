"""A model to serve, and a server of it."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
from helpers.models import talking_model
from helpers.services import LightServer

from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.deploy.export.onnx import write_onnx


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A model folder with a network that says something."""
    folder = tmp_path_factory.mktemp("served") / "model"
    talking_model(folder)
    return folder


@pytest.fixture(scope="session")
def onnx(folder, tmp_path_factory) -> Path:
    """The same as an ONNX file."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(SavedModel.load(folder), path)
    return path


@pytest.fixture(scope="session")
def light(onnx) -> Iterator[LightServer]:
    """One for all tests that leave it as it is."""
    server = LightServer(onnx)
    yield server
    server.kill()
