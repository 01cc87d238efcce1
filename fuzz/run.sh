#!/usr/bin/env bash
# Runs the fuzz targets without cargo-fuzz. Needs a C++ compiler.
#   fuzz/run.sh [SECONDS [TARGET…]]      60 seconds each by default; crashes are written to fuzz/artifacts
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=${1:-60}; shift || true
targets=("$@")
if [[ ${#targets[@]} -eq 0 ]]; then
  for file in fuzz_targets/*.rs; do
    name=$(basename "$file" .rs); [[ $name == lines ]] || targets+=("$name")
  done
fi
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks"
cargo build --locked --release --target "$host" --bins
mkdir -p artifacts
for name in "${targets[@]}"; do
  echo "== $name"
  mkdir -p "corpus/$name"
  dict=(); [[ -f words.dict ]] && dict=(-dict=words.dict)
  "${CARGO_TARGET_DIR:-target}/$host/release/$name" -max_total_time="$seconds" -max_len=512 -print_final_stats=0 -verbosity=0 \
    -artifact_prefix="artifacts/$name-" "${dict[@]}" "corpus/$name"
done
