help:  ## list the targets
	@sed -n "s/^\([a-z]*\):.*## /make \1	/p" Makefile | expand -t 18

demo:  ## compare all 13 learning rate functions on handwritten digits
	docker/run lrbench demo

lint:  ## check style, types, imports and shell scripts
	.ci/lint

test:  ## run the tests, with the real Caffe and a real PostgreSQL
	docker/run python3 -m pytest -n 4 --dist loadfile

soak:  ## run the long variants of the tests: many kills, 10,000 trials, all pages of the docs; about 20 minutes
	docker/run python3 -m pytest -m long
	docker/run python3 -m pytest -m hypothesis --hypothesis-profile "many examples"

containers:  ## build the images and run the compose file with a real engine
	docker/test

bench:  ## measure what the program costs beside Caffe itself
	docker/run python3 benchmarks/overhead.py

gpu:  ## check a GPU against the CPU, and measure what the program costs there
	docker/run python3 benchmarks/gpu.py

docs:  ## build the documentation as a web site; warnings and broken links are errors
	docs/build

clean:  ## remove what tests, tools and Python left in this folder
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help demo lint test soak containers bench gpu docs clean
