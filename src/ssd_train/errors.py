"""The errors a user can meet. Each message is one line: where, what was found, what was expected."""


class SsdTrainError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(SsdTrainError):
    """A setting is missing, unknown, out of range or contradicts another. Lists all violations at once."""

    exit_code = 2


class DataError(SsdTrainError):
    """Images or labels that cannot be used as they are; the message starts with file:line where there is one.

    `code` is what `check` calls it (data/check_codes.py); "" where no code is more exact than that of the place.
    """

    exit_code = 2

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code

    def at(self, place: object) -> "DataError":
        """The same fault, told of `place`."""
        return DataError(f"{place}: {self}", self.code)


class WeightsError(SsdTrainError):
    """A weights file or saved model that cannot be read or does not fit the network."""

    exit_code = 2


class CheckpointError(SsdTrainError):
    """A checkpoint that cannot be resumed: other settings, classes or data, or damaged beyond the last good copy."""

    exit_code = 2


class DependencyError(SsdTrainError):
    """A library is missing, or its version does not fit the others."""

    exit_code = 2


class TrainingDiverged(SsdTrainError):
    """A loss, gradient or weight became NaN or infinite; names the labels of the batch that did it."""


class PeerLost(SsdTrainError):
    """Another host of the job has died, failed, or never came; the message names it. All end with the exit code of the
    one that failed, where it told it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stopped(SsdTrainError):
    """A run ended early because it was asked to (SIGTERM, Ctrl-C); what it had made is saved."""

    exit_code = 143  # 128 + SIGTERM, as a shell reports it
