#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command, without a network and in under ten minutes:
#
#   benchmarks/on_gpu.sh OUT_DIR
#
# Builds fastloss for the card with the machine's own nvcc, CuPy, pybind11 and scikit-build-core; runs
# the tests marked `gpu`, which need pytest and ml_dtypes, compute-sanitizer over a small set of them,
# and the benchmark, which needs rich, and matplotlib for its charts: every loss beside a copy of the
# same bytes, then a few beside their peers. JAX and TensorFlow are tested, and peers measured, where
# they are installed. Leaves logs, numbers and reports in OUT_DIR, and runs every step even if one
# before it fails; the exit status says whether all went well.
set -uo pipefail
out=$(mkdir -p "${1:?usage: benchmarks/on_gpu.sh OUT_DIR}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=()

step() {  # step NAME SECONDS COMMAND...: its output goes to OUT_DIR/NAME.log
  local name=$1 limit=$2 began=$SECONDS left=$((590 - SECONDS))
  shift 2
  ((limit < left)) || limit=$left  # ten minutes for everything
  printf '==> %s\n' "$name"
  local status=124
  if ((limit > 0)); then
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
  else
    echo "no time left" >"$out/$name.log"
  fi
  tail -n "${LINES_SHOWN:-6}" "$out/$name.log"
  printf '    %s: status %d, %d s\n' "$name" "$status" $((SECONDS - began)) | tee -a "$out/summary.txt"
  ((status == 0)) || failed+=("$name")
  return $status
}

: >"$out/summary.txt"
nvidia-smi >"$out/nvidia-smi.log" 2>&1
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
if [[ -z $capability || -z $nvcc ]]; then
  echo "on_gpu.sh needs an NVIDIA GPU and nvcc; found GPU '${capability:-none}', nvcc '${nvcc:-none}'"
  exit 2
fi
export FASTLOSS_CUDA FASTLOSS_CUDA_ARCHITECTURES=${capability/./} FASTLOSS_NVCC=$nvcc
FASTLOSS_CUDA=$("$nvcc" --version | sed -nE 's/.*release ([0-9]+).*/\1/p')
export PYTHONPATH=$scratch/site PYTHONUNBUFFERED=1

step build 180 "$python" -m pip install --no-index --no-build-isolation --no-deps \
  --target "$scratch/site" --config-settings build-dir="$scratch/build" . || exit 1

step info 60 "$python" -c 'import fastloss.cuda; print(fastloss.cuda.info())'
pytest=("$python" -m pytest -m gpu -q -p no:cacheprovider -W default --tb=short)
step tests 150 "${pytest[@]}" tests/test_cuda*.py tests/test_readme.py --maxfail=40
if "$python" -c 'import jax' 2>/dev/null; then
  XLA_PYTHON_CLIENT_PREALLOCATE=false step tests-jax 60 "${pytest[@]}" tests/test_xla.py --maxfail=40
fi
if "$python" -c 'import keras, tensorflow' 2>/dev/null; then
  TF_FORCE_GPU_ALLOW_GROWTH=true step tests-tensorflow 60 "${pytest[@]}" tests/test_tensorflow_gpu.py \
    --maxfail=40
fi
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
few='huber or sparse_categorical_crossentropy or dice or out_of_range'
if [[ -n $sanitizer ]]; then
  for tool in memcheck racecheck; do
    step "$tool" 50 "$sanitizer" --tool "$tool" --error-exitcode 9 "${pytest[@]}" \
      tests/test_cuda.py -k "($few) and (any_length or out_of_range)"
  done
else
  echo "no compute-sanitizer on this machine" | tee -a "$out/summary.txt"
fi
run=("$python" benchmarks/run.py --device cuda)
LINES_SHOWN=60 step losses 90 "${run[@]}" --peer floor --size 64M --seconds 0.1 --minutes 1.2 \
  --output "$out/losses"
LINES_SHOWN=60 step peers 150 "${run[@]}" --quick --seconds 0.2 --minutes 2 --output "$out/peers"

printf '%s\n' "failed: ${failed[*]:-nothing}" | tee -a "$out/summary.txt"
((${#failed[@]} == 0))
