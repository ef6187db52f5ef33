# `make help` lists what there is. Everything runs in .venv, which is made when first needed from
# PYTHON, and compiled anew when a source changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq

# The CPU build of TensorFlow is the smaller one; it exists for x86-64 alone.
TENSORFLOW_PACKAGE := tensorflow$(if $(filter x86_64,$(shell uname -m)),-cpu)
TENSORFLOW := $(TENSORFLOW_PACKAGE)>=2.18,<2.22

# The build requirements of pyproject.toml, and what scikit-build-core would fetch for itself.
BUILDERS := 'scikit-build-core>=0.10' 'pybind11>=2.13' cmake ninja

# What is installed in .venv and tested: the sources, or a wheel that was built before.
FASTLOSS_PACKAGE ?= .

# A process for each core, with 2 GB for a TensorFlow of its own.
SIDE_BY_SIDE := -n auto --maxprocesses=4 --dist=worksteal

SOURCES := $(shell find cmake csrc python -type f -not -name '*.pyc') CMakeLists.txt

.DELETE_ON_ERROR:
.PHONY: help demo bench bench-quick test test-all notebooks docs lint format stubs wheel clean
.PHONY: test-asan test-asan-quick test-tsan test-large fuzz fuzz-binding soak reproducible

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/fastloss  ## Train a network with Keras's loss and with fastloss's; compare and time.
	@$(BIN)/python -m fastloss demo

# PyTorch and JAX are a gigabyte, so they are measured only if they are installed, or asked for.
bench bench-quick: $(VENV)/fastloss $(if $(PEERS),$(VENV)/peers)

bench:  ## Time every loss beside its peers and the floor; with PEERS=1, PyTorch and JAX as well.
	@$(BIN)/python benchmarks/run.py

bench-quick:  ## The same for a few losses and sizes, in less than three minutes.
	@$(BIN)/python benchmarks/run.py --quick

test: $(VENV)/fastloss  ## Run the tests.
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

# The newest TensorFlow is the one in .venv. The others run the same wheel.
test-all: test test-tensorflow-2.18 test-tensorflow-2.19 test-tensorflow-2.20  ## Run the tests, and those of TensorFlow with every version.

test-tensorflow-%: wheel
	@echo "TensorFlow $*"
	@$(PYTHON) -m venv $(VENV)-tensorflow-$*
	@$(VENV)-tensorflow-$*/bin/python -m pip --disable-pip-version-check install -qq \
	  '$(TENSORFLOW_PACKAGE)==$*.*' "$$(ls dist/*.whl)[test]" 'pybind11>=2.13'  # for the emulation
	@$(VENV)-tensorflow-$*/bin/python -m pytest $(SIDE_BY_SIDE) tests/test_tensorflow*.py tests/test_keras*.py \
	  tests/test_where_keras_differs.py tests/test_circle.py tests/test_ctc.py

notebooks: $(VENV)/fastloss  ## Run the notebooks, a minute; the one on images needs scikit-image.
	@$(BIN)/python -m pytest -m notebooks tests/test_notebooks.py

docs: $(VENV)/docs  ## Build the documentation into site/ (its search needs: python -m http.server -d site).
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build  # --quiet would keep warnings from failing

# ---- Does it keep working? docs/reliability.md says what was found. ----

# What needs NumPy alone: the sanitizers would report what frameworks do, too. Some compile something
# themselves, or measure; and what forces an instruction set needs a build that has them.
NUMPY_TESTS = $(filter-out tests/test_arm.py tests/test_benchmark.py tests/test_cuda.py tests/test_readme.py \
  $(if $(SHIPPED),,tests/test_instruction_sets.py), $(sort tests/test_threads.py $(shell \
  grep -LE '^(import|from) (device|frameworks|keras|peers|tensorflow|fastloss\.[a-z])' tests/test_*.py))) \
  $(wildcard tests/reliability/test_*.py)
# Where memory is written: loops over every layout, type and number of threads.
QUICK_TESTS = $(addprefix tests/reliability/test_,fuzz.py fork.py failures.py special_values.py)
# What starts teams. Most tests of rows do not: below 32768 elements a call runs on one thread. Large
# gradients differ by how elements are cut, lanes, rows and parts of rows, and by where they begin; the
# formula of a loss changes nothing about that.
THREADED_TESTS = tests/test_threads.py tests/test_sums.py::test_bits_do_not_depend_on_threads \
  $(addprefix tests/test_many_rows.py::test_,long_rows_of_a_thread_each_are_those_of_a_team \
  large_gradients_are_those_of_their_parts) \
  tests/test_large_arrays.py::test_large_gradient_of_a_sum_is_that_of_its_parts \
  $(patsubst %,'tests/test_large_arrays.py::test_large_gradient_is_that_of_its_parts[%]', \
  mean_squared_error-423-1 hinge-423-1 sparse_categorical_crossentropy-3-1 \
  categorical_crossentropy-32000-1) \
  $(addprefix tests/reliability/test_,concurrency.py same_bits.py failures.py)

# What is built: one instruction set, that of this machine, hardly optimized. It compiles in minutes,
# and the sanitizers see every load and store of the sources. SHIPPED=1 has the address sanitizer look
# at what is shipped instead, three instruction sets fully optimized, which takes much longer.
FLAGS_asan := -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=undefined
FLAGS_shipped := $(FLAGS_asan)
FLAGS_tsan := -fsanitize=thread
SANITIZED := $(VENV)-asan/fastloss $(VENV)-tsan/fastloss $(VENV)-shipped/fastloss
ASAN := $(if $(SHIPPED),shipped,asan)
CXX ?= g++
# The C++ library comes first, too, or the sanitizer does not find what throws exceptions. Python and
# NumPy keep memory until the process ends, which is no leak of ours: `soak` looks for those. The
# thread sanitizer needs addresses where it expects them.
library = $(shell $(CXX) -print-file-name=$(1))
sanitized = LD_PRELOAD="$(call library,lib$(1).so) $(call library,libstdc++.so.6)" \
  ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS="exitcode=66 suppressions=$(CURDIR)/tests/reliability/tsan.supp" \
  FASTLOSS_FUZZ_CASES=200 \
  setarch --addr-no-randomize $(VENV)-$(2)/bin/python -m pytest -p no:cacheprovider

$(SANITIZED): $(VENV)-%/fastloss: pyproject.toml $(SOURCES)
	@echo "Compiling fastloss with $(FLAGS_$*) (minutes)"
	@$(PYTHON) -m venv $(VENV)-$*
	@$(VENV)-$*/bin/python -m pip --disable-pip-version-check install -qq $(BUILDERS) \
	  numpy hypothesis joblib ml_dtypes mpmath 'pytest>=8' pytest-xdist threadpoolctl
	@touch $@.started
	@PATH="$$PWD/$(VENV)-$*/bin:$$PATH" CXXFLAGS="-g1 $(FLAGS_$*) $(if $(filter shipped,$*),,-march=native)" \
	  FASTLOSS_QUICK_BUILD=$(if $(filter shipped,$*),OFF,ON) $(VENV)-$*/bin/python -m pip \
	  --disable-pip-version-check install -qq --no-build-isolation --no-deps \
	  --config-settings build-dir=build/$* --config-settings install.strip=false .
	@mv $@.started $@

test-asan: $(VENV)-$(ASAN)/fastloss  ## Run the NumPy tests under the address and undefined-behaviour sanitizers.
	$(call sanitized,asan,$(ASAN)) $(SIDE_BY_SIDE) $(NUMPY_TESTS)

test-asan-quick: $(VENV)-$(ASAN)/fastloss  ## The same for a few tests.
	$(call sanitized,asan,$(ASAN)) $(SIDE_BY_SIDE) -q $(QUICK_TESTS)

# In one process: what it saw shows in the exit status of the process that saw it.
test-tsan: $(VENV)-tsan/fastloss  ## Run the tests of threads under the thread sanitizer.
	$(call sanitized,tsan,tsan) $(THREADED_TESTS)

test-large: $(VENV)/fastloss  ## More than 2^31 elements, 1e8 classes, peak memory: 12 GB, minutes.
	@$(BIN)/python -m pytest -v tests/reliability/large.py

fuzz: $(VENV)/fastloss  ## Random calls against the oracle, 10,000 of them; CASES=n for others.
	@FASTLOSS_FUZZ_CASES=$(or $(CASES),10000) $(BIN)/python -m pytest tests/reliability/test_fuzz.py

fuzz-binding: $(VENV)/fastloss  ## Fuzz the compiled module with Atheris, which is installed; RUNS=n.
	@$(PIP) atheris
	@PYTHONPATH=tests $(BIN)/python tests/reliability/fuzz_binding.py -runs=$(or $(RUNS),200000)

soak: $(VENV)/fastloss  ## Random calls for ten minutes; memory must not grow. MINUTES=n for others.
	@PYTHONPATH=tests $(BIN)/python tests/reliability/soak.py --minutes $(or $(MINUTES),10)

reproducible: $(VENV)/fastloss  ## Build the wheel twice, in two places; compare.
	@$(BIN)/python tools/check_reproducible.py

lint: $(VENV)/fastloss  ## Check format, types and stubs; changes nothing.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $$(find csrc tests/cuda -name '*.h' -o -name '*.cpp' -o -name '*.cu')
	$(BIN)/python tools/make_stubs.py --check
	$(BIN)/mypy
	$(BIN)/mypy python/fastloss/losses.py  # which its stub hides from the line above
	$(BIN)/stubtest fastloss._core fastloss.losses --allowlist tools/stubtest-allowlist.txt

format:  ## Format the sources and write the stubs.
format: $(VENV)/fastloss stubs
	-$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc tests/cuda -name '*.h' -o -name '*.cpp' -o -name '*.cu')

stubs: $(VENV)/fastloss  ## Write python/fastloss/losses.pyi from the registry.
	$(BIN)/python tools/make_stubs.py

wheel: $(VENV)/python  ## Build the wheel and the source archive into dist/.
	@$(PIP) build
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

clean:  ## Delete everything that was built, .venv included.
	rm -rf build dist $(VENV) $(VENV)-tensorflow-* $(SANITIZED:/fastloss=) \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf fastloss-demo.png benchmark-results site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/python:
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip $(BUILDERS)
	@touch $@

# pip always builds a package that it is given as a directory, and leaves its met requirements alone.
# Without isolation it compiles only what changed. The stamp is dated before the build, so that what
# is edited meanwhile is seen the next time.
$(VENV)/fastloss: $(VENV)/python pyproject.toml $(SOURCES)
	@echo "Compiling fastloss and installing what it needs (minutes the first time)"
	@touch $@.started
	@$(PIP) --no-build-isolation '$(TENSORFLOW)' '$(FASTLOSS_PACKAGE)[bench,demo,test,dev]'
	@mv $@.started $@

# PyPI's PyTorch brings gigabytes for GPUs; TORCH may be the file of a build for the CPU.
TORCH ?= torch
$(VENV)/peers: $(VENV)/python
	@echo "Installing PyTorch and JAX"
	@$(PIP) $(TORCH) jax
	@touch $@

$(VENV)/docs: $(VENV)/fastloss
	@echo "Installing what builds the documentation"
	@$(PIP) --no-build-isolation '$(FASTLOSS_PACKAGE)[docs]'
	@touch $@
