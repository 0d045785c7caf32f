"""The distribution `ssd-train`. A tested environment, pinned to the last package, is in requirements.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "src/ssd_train/__init__.py").read_text("utf-8"), re.M).group(1)

# MXNet and GluonCV are no longer developed: their companions are held at versions that were seen to work with them,
# all three together (another scipy or pandas makes GluonCV's import fail, and blame MXNet).
COMPANIONS = [
    "numpy==1.23.5; python_version < '3.12'",
    "numpy==1.26.4; python_version >= '3.12'",
    "scipy==1.10.1; python_version < '3.9'",
    "scipy==1.13.1; python_version == '3.9'",
    "scipy==1.15.3; python_version >= '3.10' and python_version < '3.12'",
    "scipy==1.17.0; python_version >= '3.12'",
    "pandas==2.0.3; python_version < '3.9'",
    "pandas==2.3.3; python_version >= '3.9' and python_version < '3.12'",
    "pandas>=3.0,<3.1; python_version >= '3.12'",
    "setuptools==75.3.4",  # Python 3.12 has no distutils of its own
    # gluoncv asks for opencv-python, which wants libGL; requirements.txt leaves it out by --no-deps.
    "gluoncv==0.10.5.post0",
]

SERVE = ["uvicorn>=0.33", "starlette>=0.44", "python-multipart>=0.0.20", "prometheus-client>=0.21"]

setup(
    name="ssd-train",
    version=VERSION,
    description="From a labelling job to a working object detector: MobileNet-SSD on MXNet, laptop or SageMaker",
    long_description=README.read_text("utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.8,<3.13",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"ssd_train": ["__init__.pyi"], "ssd_train.deploy.server": ["*.html"]},
    # Neither mxnet nor gluoncv: what reads labels, scores answers and draws works without them.
    install_requires=["numpy>=1.19.5,<2", "opencv-python-headless>=4.5", "Pillow>=9.1", "tqdm>=4.39"],
    extras_require={
        "cpu": ["mxnet==1.9.1", *COMPANIONS],
        "cu112": ["mxnet-cu112==1.9.1", *COMPANIONS],
        "s3": ["boto3>=1.36,<2"],  # 1.36: the first whose checksums can be left to those stores that know them
        "onnx": ["onnx>=1.14", "onnxruntime>=1.17"],  # export writes with onnx; a file runs with onnxruntime alone
        "edge": ["onnxruntime>=1.17", "paho-mqtt>=2,<3"],  # examples/greengrass
        "openvino": ["openvino>=2024.4"],
        "safetensors": ["safetensors>=0.4"],  # --pretrained FILE.safetensors
        "tensorboard": ["tensorboard>=2.11"],  # train --log tensorboard; neither TensorFlow nor PyTorch is needed
        "yolo": ["PyYAML>=5.4"],  # data.yaml; imported only where there is one
        # any other engine than ONNX Runtime serves as well
        "serve": [*SERVE, "onnxruntime>=1.17"],
        "sagemaker": ["boto3>=1.36,<2"],  # launch; the SageMaker SDK is not needed (requirements/launch-sdk2.txt)
        "test": [
            *["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "pycocotools>=2.0.7", "pypdf>=5.9", "PyYAML>=5.4"],
            *["ruff==0.17.5", "mypy>=1.14", "import-linter>=2.6; python_version >= '3.10'"],
            *["mkdocs>=1.6", "codespell>=2.4"],
            *["boto3>=1.36,<2", "moto[server]>=5,<6"],
            *["onnx>=1.14", "onnxruntime>=1.17", "openvino>=2024.4", *SERVE, "paho-mqtt>=2,<3"],
            *["safetensors>=0.4"],
            "tensorboard>=2.11",
        ],
    },
    entry_points={"console_scripts": ["ssd-train = ssd_train.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(8, 13)),
    ],
)
