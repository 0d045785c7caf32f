"""Parts of the distribution that pyproject.toml cannot describe; the rest is there."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
REPOSITORY = ""  # https://host/owner/name once it is published: links in the README of a package index lead there
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


class BuildWithEntryPoint(build_py):
    """Adds entry_point/, which `launch` sends to SageMaker, to a wheel; a checkout has it beside src/."""

    def run(self):
        super().run()
        if not getattr(self, "editable_mode", False):
            target = Path(self.build_lib, "ssd_train", "launch", "entry_point")
            target.mkdir(parents=True, exist_ok=True)
            for name in ("train.py", "requirements.txt"):
                shutil.copyfile(ROOT / "entry_point" / name, target / name)


def _link(match):
    """Return a link of the README to a file of the repository, absolute, or its text if there is no address."""
    image, text, target = match.groups()
    if REPOSITORY:
        return f"{image}[{text}]({REPOSITORY}/{'raw' if image else 'blob'}/main/{target})"
    return "" if image else text


setup(
    # SPDX in pyproject.toml needs setuptools 77, which Python 3.8 does not have; newer ones refuse the older table.
    license="Apache-2.0",
    long_description=LINK.sub(_link, (ROOT / "README.md").read_text("utf-8")),
    long_description_content_type="text/markdown",
    cmdclass={"build_py": BuildWithEntryPoint},
)
