# Developer commands. Artists need none of them: they install through ComfyUI Manager or clone into custom_nodes.

# Any Python 3.10 or newer: it only makes the virtual environment.
PYTHON ?= python3
PORT ?= 8188
DEVICE ?= cpu
ARGS ?=
VENV_PYTHON = .cache/venv/bin/python

.PHONY: help demo test test-old-host ui archive name-address bench numbers-toybox numbers-finetune numbers-edit numbers-compose numbers-pretraining

help:
	@echo "make demo            from a bare machine to a picture, made by the real ComfyUI"
	@echo "make test            every test; ARGS=... goes to pytest, for example ARGS='tests/test_prompt.py -x'"
	@echo "make test-old-host   the tests of nodes and host parts in the oldest ComfyUI that the pack supports, 0.16.3"
	@echo "make ui              ComfyUI with this pack in the browser; PORT=8189, DEVICE=gpu"
	@echo "make archive         what the Registry ships, checked and packed by comfy-cli: .cache/archive/node.zip"
	@echo "make name-address    write REPOSITORY=https://github.com/OWNER/NAME and PUBLISHER=ID into pyproject.toml"
	@echo "make bench           every benchmark"
	@echo "make numbers-toybox  quality of the built-in model, as JSON in the last line"
	@echo "make numbers-finetune  what tuning adds to it, likewise"
	@echo "make numbers-edit    how well a thing in a picture is replaced, likewise"
	@echo "make numbers-compose  blending, placing, steering and seeing subjects, likewise"
	@echo "make numbers-pretraining  whether pre-training keeps its promises, and Table 2 on the toy world, likewise"

demo:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.demo

test:
	@$(PYTHON) -m tools.setup test
	@$(VENV_PYTHON) -m pytest $(ARGS)

OLD_HOST = .cache/host/ComfyUI-0.16.3
HOST_TESTS = $(wildcard tests/test_nodes_*.py tests/test_host_*.py tests/test_*_host.py tests/test_*_node.py)

test-old-host:
	@$(PYTHON) -m tools.setup test
	@$(PYTHON) -m tools.setup old-host
	@COMFYUI_PATH=$(CURDIR)/$(OLD_HOST) $(VENV_PYTHON) -m pytest $(HOST_TESTS) tests/test_inversion.py tests/test_scheduled.py $(ARGS)

ui:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.ui $(PORT) $(DEVICE)

archive:
	@$(PYTHON) -m tools.setup archive
	@$(VENV_PYTHON) -m tools.archive

name-address:
	@$(PYTHON) -m tools.name_address "$(REPOSITORY)" "$(PUBLISHER)"

bench:
	@$(PYTHON) -m tools.setup test
	@$(VENV_PYTHON) -m tools.bench

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

numbers-pretraining:
	@$(PYTHON) -m tools.setup demo
	@$(VENV_PYTHON) -m tools.numbers.pretraining $(ARGS)
