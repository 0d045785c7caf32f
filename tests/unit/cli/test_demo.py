"""demo: invalid flags are errors before anything is drawn."""

from __future__ import annotations

import pytest

from ssd_train.cli.main import main


@pytest.mark.parametrize(
    "flags, expected",
    [
        pytest.param(["--pictures", "0"], "--pictures: found 0", id="none"),
        pytest.param(["--pictures", "1000000"], "--pictures: found 1000000", id="too many"),
        pytest.param(["--epochs", "0"], "epochs: found '0'", id="setting"),
    ],
)
def test_demo_invalid_flags_are_errors_before_drawing(tmp_path, capsys, flags, expected):
    assert main(["demo", "--folder", str(tmp_path / "demo"), *flags]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
