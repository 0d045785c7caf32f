"""demo: flags that cannot be used are refused before anything is drawn."""

from __future__ import annotations

import pytest

from ssd_train.cli.main import main


@pytest.mark.parametrize(
    "flags, expected",
    [
        pytest.param(["--pictures", "0"], "--pictures: found 0, expected 1 to 100000", id="none"),
        pytest.param(["--pictures", "1000000"], "--pictures: found 1000000, expected 1 to 100000", id="too many"),
        pytest.param(["--epochs", "0"], "epochs: found '0', expected at least 1", id="setting"),
    ],
)
def test_flags_that_cannot_be_used(tmp_path, capsys, flags, expected):
    assert main(["demo", "--folder", str(tmp_path / "demo"), *flags]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
