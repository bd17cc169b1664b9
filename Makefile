# What CI runs, step by step; `make ci` is all of it, from a new virtual environment on.
.PHONY: install lint types test coverage slow hosts gpu docs figures options ci

install:
	pip install -e '.[dev]'

lint:
	ruff check .
	ruff format --check .
	codespell

types:
	mypy
	mypy --config-file tests/mypy.ini tests

test:
	pytest -n 2 --dist loadfile --no-loadscope-reorder

# Takes longer than `make test`, which checks the same.
coverage:
	coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	coverage combine -q
	coverage report --sort=cover

# The exhaustive ones; then those that start programs, as a user does and not forked (tests/fork_program.py).
slow:
	pytest -m "slow and not starts" -n 2 --dist loadfile --no-loadscope-reorder
	REAL_STARTS=1 pytest -m starts -n 2 --dist loadfile --no-loadscope-reorder

# As root, after: apt-get install iproute2 openssh-server pdsh
hosts:
	pytest -m hosts

# On a machine with CUDA.
gpu:
	pytest -m gpu

# The site, into site/.
docs:
	properdocs build --strict

# Where README and docs differ from benchmarks/results.
figures:
	python benchmarks/published.py --check

# After a change of train/config.py.
options:
	python -m train.options > docs/options.md

ci:
	bash .ci/run
