# Developer commands. Artists need none of them: they install through ComfyUI Manager or clone into custom_nodes.

# Any Python 3.10 or newer: it only makes the virtual environment.
PYTHON ?= python3
PORT ?= 8188
DEVICE ?= cpu
ARGS ?=
VENV_PYTHON = .cache/venv/bin/python
# Tests and benchmarks start Python hundreds of times: what it compiles is kept, whatever the machine says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo check test test-fast test-old-host test-new-front-end ui archive name-address bench numbers-toybox numbers-finetune numbers-edit numbers-compose numbers-pretraining numbers-headline numbers-ms numbers-gill numbers-transplant numbers-tuning

help:
	@echo "make demo            from a bare machine to a picture, made by the real ComfyUI"
	@echo "make check           style and types, in seconds"
	@echo "make test-fast       tests that need no ComfyUI, browser, reference libraries or other processes, in minutes"
	@echo "make test            every test; ARGS=... goes to pytest, for example ARGS='tests/test_prompt.py -x'"
	@echo "make test-old-host   the tests of nodes and host parts in the oldest ComfyUI that the pack supports, 0.16.3"
	@echo "make test-new-front-end  the browser tests with the newest front end of ComfyUI from the package index"
	@echo "make ui              ComfyUI with this pack in the browser; PORT=8189, DEVICE=gpu"
	@echo "make archive         what the Registry ships, checked and packed by comfy-cli: .cache/archive/node.zip"
	@echo "make name-address    write REPOSITORY=https://github.com/OWNER/NAME and PUBLISHER=ID into pyproject.toml"
	@echo "make bench           every benchmark; DEVICE=gpu measures on a GPU, in ten minutes"
	@echo "make numbers-toybox  quality of the built-in model, as JSON in the last line"
	@echo "make numbers-finetune  what tuning adds to it, likewise"
	@echo "make numbers-tuning  which means make tuning better, likewise"
	@echo "make numbers-headline  tuning against DreamBooth, textual inversion and the host's trainer, likewise; ARGS=--page"
	@echo "make numbers-edit    how well a thing in a picture is replaced, likewise"
	@echo "make numbers-compose  blending, placing, steering and seeing subjects, likewise"
	@echo "make numbers-ms      several things in boxes by the built-in MS-Diffusion adapter, likewise"
	@echo "make numbers-gill    what toy GILL understands, draws and finds, likewise"
	@echo "make numbers-transplant  a subject in a checkpoint with a style of its own, likewise"
	@echo "make numbers-pretraining  whether pre-training keeps its promises, and Table 2 on the toy world, likewise"

demo:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.demo

# Types are looked up in every library that some command imports, so the libraries of the tests are needed here too.
check:
	@$(PYTHON) -m tools.setup test
	@$(VENV_PYTHON) -m ruff check
	@$(VENV_PYTHON) -m ruff format --check
	@$(VENV_PYTHON) -m tools.check_types

# Two processes suit two cores, with one thread each; numba needs to be told by itself, and would tell PyTorch otherwise.
# Each test file stays in one of them, so that its models are loaded once. In the order of names the last are short ones.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test:
	@$(PYTHON) -m tools.setup test
	@$(PYTEST) $(ARGS)

test-fast:
	@$(PYTHON) -m tools.setup test
	@$(PYTEST) -m "not server and not browser and not reference and not comfy and not process" $(ARGS)

OLD_HOST = .cache/host/ComfyUI-0.16.3
HOST_TESTS = $(wildcard tests/test_nodes_*.py tests/test_host_*.py)

test-old-host:
	@$(PYTHON) -m tools.setup test
	@$(PYTHON) -m tools.setup old-host
	@COMFYUI_PATH=$(CURDIR)/$(OLD_HOST) $(VENV_PYTHON) -m pytest $(HOST_TESTS) $(ARGS)

NEW_FRONT_END = .cache/new-front-end/comfyui_frontend_package/static
BROWSER_TESTS = $(wildcard tests/test_browser_*.py)

test-new-front-end:
	@$(PYTHON) -m tools.setup test
	@$(PYTHON) -m tools.setup new-front-end
	@FRONT_END=$(CURDIR)/$(NEW_FRONT_END) $(VENV_PYTHON) -m pytest $(BROWSER_TESTS) $(ARGS)

ui:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.ui "$(PORT)" "$(DEVICE)"

archive:
	@$(PYTHON) -m tools.setup archive
	@$(VENV_PYTHON) -m tools.archive

name-address:
	@$(PYTHON) -m tools.name_address "$(REPOSITORY)" "$(PUBLISHER)"

bench:
	@$(PYTHON) -m tools.setup test
	@$(VENV_PYTHON) -m tools.bench "$(DEVICE)"

numbers-toybox:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m blipdiff_impl.toybox numbers $(ARGS)

numbers-finetune:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m blipdiff_impl.toybox.numbers_finetune $(ARGS)

numbers-edit:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.numbers.editing $(ARGS)

numbers-compose:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.numbers.compose $(ARGS)

numbers-ms:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.numbers.ms_diffusion $(ARGS)

numbers-gill:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.numbers.gill $(ARGS)

numbers-transplant:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.numbers.transplant $(ARGS)

numbers-pretraining:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.numbers.pretraining $(ARGS)

numbers-tuning:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.numbers.tuning $(ARGS)

numbers-headline:
	@$(PYTHON) -m tools.setup headline
	@$(VENV_PYTHON) -m tools.numbers.headline $(ARGS)
