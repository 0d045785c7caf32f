# make demo: set up and train a detector on drawn images.   make test: set up and run the tests.
# Another interpreter: make test PYTHON=python3.8 (or PYTHON=python3.8 make test); it gets a separate environment.

PYTHON ?= python3
REQUIREMENTS ?= requirements.txt
ifeq ($(PYTHON),python3)
VENV ?= .venv
else
VENV ?= .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
BIN := $(VENV)/bin

# Environments of the training toolkits: the Python of AWS's container, and the newest.
TOOLKITS := 3.8 3.11
# Environments of the SageMaker SDKs that launch jobs.
SDKS := sdk2 sdk3

.DEFAULT_GOAL := help
.PHONY: help dist dist-check demo serve-container-stack test test-all test-integration test-horovod test-slice test-faults test-planted-faults fuzz check docs bench bench-ultralytics test-aws clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      set up, draw a data set, train on it, score it, show it (ARGS=... for the demo's flags)"
	@echo "make test      set up and run the tests (ARGS=... for pytest)"
	@echo "make test-all  make test, the slow tests, and make test-integration: all but faults, fuzz, Horovod and bench"
	@echo "make test-integration  SageMaker's own toolkits and SDKs, the notebooks, and PyTorch (they need python3.8, python3.11, Java)"
	@echo "make test-slice  the shortest of these"
	@echo "make test-faults  kills, full disks, signals, long runs: docs/reliability.md (20 minutes; some tests need root and strace)"
	@echo "make test-planted-faults  plant faults in a copy of the source and report which tests catch them (an hour or more; ARGS=\"--sample 10\")"
	@echo "make fuzz      200 kills, and 20000 mutations of each kind of input (two hours)"
	@echo "make test-horovod  two Horovod processes; builds Horovod first (needs python3.8, a C++ compiler; 6 minutes)"
	@echo "make serve-container-stack MODEL=model  AWS's serving stack on this machine (Java, python3.8, root), PORT=8080"
	@echo "make bench     measure the speed compared with GluonCV and pycocotools: benchmarks/README.md (ARGS=NAME ...)"
	@echo "make bench-ultralytics  compare ours with Ultralytics' YOLO11n (needs python3.11, 6 GB, SSD_TRAIN_DATA; ARGS=...)"
	@echo "make check     ruff, ruff format, mypy, import-linter, the documentation, and the installed versions"
	@echo "make docs      build the documentation site in build/site"
	@echo "make dist      build the sdist, and from it the wheel, in dist/"
	@echo "make dist-check  check both, and train with the wheel in bare environments of Python 3.8 to 3.12 (20 minutes; ARGS=\"--python 3.8\")"
	@echo "make test-aws  the tests on the libraries of the AWS MXNet 1.9.0 container (PYTHON=python3.8)"
	@echo "make clean     remove the environment and the caches"

demo: $(VENV)/.runtime
	$(BIN)/python -m ssd_train demo $(ARGS)

serve-container-stack: $(VENV)/.runtime .venv-serving/.done
	$(BIN)/python examples/serving_stack.py --venv .venv-serving --model "$(MODEL)" --port $(or $(PORT),8080)

# One process per processor, up to four, because each takes up to a gigabyte of memory.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

# One after the other: the long tests are timed, and AWS's serving stack allows one server on a machine.
test-all:
	$(MAKE) test
	$(BIN)/python -m pytest -m slow $(ARGS)
	$(MAKE) test-integration

test-integration: $(VENV)/.notebooks $(TOOLKITS:%=.venv-toolkit-%/.done) $(SDKS:%=.venv-launch-%/.done) .venv-serving/.done .venv-torch/.done
	$(BIN)/python -m pytest -m sagemaker $(ARGS)

# The part that .ci/run has time for: a job in AWS's container, a job that is refused, a job on two hosts, and a model that is
# trained there, deployed by SDK 2 and served by AWS's stack (Java).
test-slice: $(VENV)/.test .venv-toolkit-3.8/.done .venv-launch-sdk2/.done .venv-serving/.done
	$(BIN)/python -m pytest -m "sagemaker and slice" -k "not 3.11" $(ARGS)

# docs/reliability.md lists the faults and the expected results.
test-faults: $(VENV)/.test
	$(BIN)/python -m pytest -m faults --durations=10 $(ARGS)

# Measures what the tests catch. Run it before and after removing tests.
test-planted-faults: $(VENV)/.test
	$(BIN)/python tests/mutation/planted_faults.py $(ARGS)

FUZZED := tests/unit/data/formats/test_mutated.py tests/integration/test_untrusted.py tests/unit/storage/test_archive.py \
	tests/unit/data/test_image_io.py tests/unit/artifacts/test_symbol_check.py
fuzz: $(VENV)/.test
	SSD_TRAIN_FUZZ=$(or $(MUTATIONS),20000) $(BIN)/python -m pytest -k "mutated or damaged or any_tar" $(FUZZED) $(ARGS)
	SSD_TRAIN_KILLS=$(or $(KILLS),200) $(BIN)/python -m pytest -m faults -k random_moments \
		tests/integration/faults/test_kills.py $(ARGS)

# Horovod is built against MXNet first, which takes minutes, so this is not part of CI.
test-horovod: $(VENV)/.test .venv-horovod/.done
	$(BIN)/python -m pytest -m horovod $(ARGS)

# Checked for the words of docs/retired-words.txt.
PROSE := README.md CONTRIBUTING.md CHANGELOG.md benchmarks/README.md examples/greengrass/README.md mkdocs.yml \
	$(wildcard docs/*.md docs/guide/*.md docs/migrate/*.md)
# In the source, texts on one line in double quotes (messages, JSON keys, flags, codes) are not read. WORD is a word of prose or a part of
# an identifier. NAME is a whole name that is assigned, a parameter, or a part of a name with underscores.
WORD := '[A-Z]?[a-z]+|[A-Z]+'
NAME := '\b[a-z]+(?=(, \w+)* = |: )|(?<=for )[a-z]+(?= in )|(?<=_)[A-Za-z]+|[A-Za-z]+(?=_)'
STRING := '(?<!")"(?!")(\\.|[^"\\])*"(?!")|unlabelled_answers|early_stopping_patience|connection_made'
SOURCE := src entry_point --skip '*.html,*.egg-info'
check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# import-linter needs Python 3.10; its result does not depend on the version.
	@[ ! -x $(BIN)/lint-imports ] || $(BIN)/lint-imports --no-cache
	$(BIN)/codespell -D docs/retired-words.txt $(PROSE)
	$(BIN)/codespell -D docs/retired-words.txt --regex $(WORD) --ignore-regex $(STRING) $(SOURCE)
	$(BIN)/codespell -D docs/retired-names.txt --regex $(NAME) --ignore-regex $(STRING) $(SOURCE)
	$(BIN)/mkdocs build --strict
	@# The only known mismatch: gluoncv requires opencv-python, and opencv-python-headless is installed.
	! $(BIN)/python -m pip check | grep -v -e "^gluoncv .* requires opencv-python, which is not installed" -e "^supervision .* requires opencv-python, which is not installed" -e "^No broken"

docs: $(VENV)/.test
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks $(ARGS)

# Ultralytics runs as a program in an environment of its own.
bench-ultralytics: $(VENV)/.test .venv-ultralytics/.done
	$(BIN)/python -m benchmarks.ultralytics --yolo .venv-ultralytics/bin/yolo $(ARGS)

dist: $(VENV)/.runtime
	rm -rf dist && mkdir dist
	$(BIN)/python -c "import setuptools.build_meta as build; build.build_sdist('dist')"
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist dist/*.tar.gz

dist-check: dist .venv-dist/.done
	.venv-dist/bin/python -m twine check --strict dist/*
	.venv-dist/bin/check-wheel-contents dist/*.whl
	.venv-dist/bin/python tests/distribution/check.py dist $(ARGS)

test-aws:
	$(MAKE) test PYTHON=$(PYTHON) VENV=.venv-aws REQUIREMENTS=requirements/aws-container.txt OLDER=requirements/aws-onnx.txt

clean:
	rm -rf $(VENV) .venv-horovod .venv-serving .venv-torch .venv-ultralytics .venv-dist .venv-toolkit-* .venv-launch-* .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Packages that pip cannot install: two system libraries of MXNet, and Debian's separate package of venv.
SYSTEM_PACKAGES := libgomp1 libquadmath0 python3-venv
SYSTEM_CHECK := import ctypes, ensurepip, venv; [ctypes.CDLL(name) for name in ("libgomp.so.1", "libquadmath.so.0")]

$(VENV)/.runtime: $(REQUIREMENTS) setup.py
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { \
		echo "found $$(uname -sm), expected Linux x86_64: MXNet 1.9.1 has no tested build for other platforms;" \
			"an exported ONNX file runs without it: README.md"; exit 1; }
	@$(PYTHON) -c 'import sys; found = sys.version_info[:2]; (3, 8) <= found <= (3, 12) or sys.exit( \
		"$(PYTHON) is Python %d.%d: expected 3.8 to 3.12; name another: make ... PYTHON=python3.11" % found)'
	@$(PYTHON) -c '$(SYSTEM_CHECK)' 2>/dev/null || if [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(SYSTEM_PACKAGES); \
	else \
		echo "run first: sudo apt-get install $(SYSTEM_PACKAGES)"; exit 1; \
	fi
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check pip==25.0.1
	$(BIN)/python -m pip install -q --no-deps -r $(REQUIREMENTS)
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.test: $(VENV)/.runtime requirements/test.txt requirements/s3.txt requirements/onnx.txt requirements/serve.txt requirements/tensorboard.txt \
		requirements/docs.txt
	$(BIN)/python -m pip install -q --no-deps -r requirements/test.txt
	[ -z "$(OLDER)" ] || $(BIN)/python -m pip install -q --no-deps -r $(OLDER)
	touch $@

# Creates an environment with Python $(1) from the PATH or from pyenv. Without that interpreter there is no environment, and its
# tests are skipped by name (tests/helpers/environments.py). A step that fails here ends make.
define OWN_VENV
	@for python in python$(1) "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(1).*/bin/python$(1); do \
		if "$$python" -c '' 2>/dev/null; then \
			set -ex; "$$python" -m venv --clear $(@D); \
			$(@D)/bin/python -m pip install -q --disable-pip-version-check pip==25.0.1; \
			$(@D)/bin/python -m pip install -q --no-deps -r $<; \
			touch $@; exit 0; \
		fi; \
	done; echo "python$(1) was not found: the tests in $(@D) are skipped"
endef

.venv-toolkit-%/.done: requirements/toolkit-%.txt requirements.txt requirements/aws-container.txt
	$(call OWN_VENV,$*)

HOROVOD := HOROVOD_WITH_MXNET=1 HOROVOD_WITH_GLOO=1 $(addprefix HOROVOD_WITHOUT_,MPI=1 TENSORFLOW=1 PYTORCH=1)
.venv-horovod/.done: requirements/horovod.txt requirements.txt
	$(call OWN_VENV,3.8)
	[ ! -f $@ ] || { set -ex; $(@D)/bin/python -m pip install -q --no-deps setuptools==65.7.0; \
		PATH="$(CURDIR)/$(@D)/bin:$$PATH" MAKEFLAGS=-j2 $(HOROVOD) $(@D)/bin/python -m pip install -q --no-deps \
		--no-build-isolation --no-binary horovod horovod==0.28.1; }

.venv-launch-%/.done: requirements/launch-%.txt
	$(call OWN_VENV,3.11)

# AWS's inference image has no OpenCV. It is installed in a separate folder for the tests that run with and without it.
OPENCV = $(shell grep ^opencv requirements/aws-container.txt)
.venv-serving/.done: requirements/serving-container.txt requirements/aws-container.txt
	$(call OWN_VENV,3.8)
	[ ! -f $@ ] || { set -ex; $(@D)/bin/python -m pip uninstall -q -y $(firstword $(subst ==, ,$(OPENCV))); \
		$(@D)/bin/python -m pip install -q --no-deps --target $(@D)/opencv $(OPENCV); }

.venv-dist/.done: requirements/dist.txt
	$(call OWN_VENV,3.11)

# PyTorch 1.12 is the last whose package runs on a CPU without the packages of CUDA.
.venv-torch/.done: requirements/torch.txt
	$(call OWN_VENV,3.8)

.venv-ultralytics/.done: requirements/ultralytics.txt
	$(call OWN_VENV,3.11)

$(VENV)/.notebooks: $(VENV)/.test requirements/notebooks.txt
	$(BIN)/python -m pip install -q --no-deps -r requirements/notebooks.txt
	touch $@
