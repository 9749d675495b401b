#!/usr/bin/env bash
# Run the native kernels under sanitizers and write what they say to benchmarks/results/kernels/sanitize.log.
#
#   benchmarks/kernels/sanitize.sh [--sanitizers "address,undefined"] [--log FILE] [TESTS OR OPTIONS OF PYTEST ...]
#
# 1. A planted out-of-bounds read and a planted overflow must be reported: else the sanitizers are deaf and nothing counts.
# 2. The whole library, built with --sanitizers (several sets can be given, separated by spaces; default
#    "address,undefined"), under the tests of ops. Leaks are not looked for: Python leaks by design.
#
# Ends with 0 only if every test passed and no sanitizer spoke. PYTHON and CXX choose the interpreter and the compiler;
# SANITIZED=FOLDER keeps the instrumented libraries there for the next run.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
python=${PYTHON:-python}
cxx=${CXX:-g++}
sets="address,undefined"
log=benchmarks/results/kernels/sanitize.log
tests=()
while (($#)); do
  case $1 in
    --sanitizers) sets=$2; shift 2 ;;
    --log) log=$2; shift 2 ;;
    *) tests+=("$1"); shift ;;
  esac
done
if ((${#tests[@]} == 0)); then
  # The tests of the builder, loader and threads run no kernel; Triton's programs are not in the library.
  tests=(tests/ops --ignore=tests/ops/native --ignore=tests/ops/test_triton_interpreted.py)
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONDONTWRITEBYTECODE=1
failed=0

say() { printf '%s\n' "$*" | tee -a "$work/log"; }
verdict() { # status, what
  if (($1)); then failed=1; say "FAILED: $2"; else say "ok: $2"; fi
}
spoken() { # folder: prints the reports of the sanitizers in it; true if there are any
  local found=1 file
  for file in "$1"/report*; do
    [[ -s $file ]] || continue
    found=0
    head -n 25 "$file" | tee -a "$work/log"
  done
  return $found
}
runtime() { # sanitizers -> the libraries to preload; libstdc++ comes too, so that exceptions of torch find their way
  local name libraries=()
  for name in ${1//,/ }; do
    case $name in address) name=asan ;; undefined) name=ubsan ;; thread) name=tsan ;; esac
    libraries+=("$("$cxx" -print-file-name="lib$name.so")")
  done
  libraries+=("$("$cxx" -print-file-name=libstdc++.so.6)")
  (IFS=:; printf '%s' "${libraries[*]}")
}
under() { # sanitizers, folder for reports, command ...: run it with the runtimes loaded first
  local libraries folder=$2
  libraries=$(runtime "$1")
  mkdir -p "$folder"
  shift 2
  LD_PRELOAD=$libraries \
    ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:log_path=$folder/report" \
    UBSAN_OPTIONS="print_stacktrace=1:log_path=$folder/report" "$@"
}

say "sanitizers over the native kernels of convswap"
say "commit:   $(git rev-parse HEAD 2>/dev/null || echo none)$(git diff --quiet HEAD -- src 2>/dev/null || echo ' with changes in src')"
say "date:     $(date -u +%Y-%m-%dT%H:%M:%SZ)"
say "compiler: $("$cxx" --version | head -n 1)"
say "machine:  $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
say ""

say "== planted faults must be heard"
cat > "$work/planted.cpp" <<'CPP'
#include <climits>
#include <cstdlib>
extern "C" int planted_address(int at) {
  volatile int* memory = static_cast<int*>(std::calloc(4, sizeof(int)));
  return memory[at];
}
extern "C" int planted_undefined(int by) { return INT_MAX - 3 + by; }
CPP
for name in address undefined; do
  "$cxx" -shared -fPIC -g -O1 -fsanitize=$name -fno-sanitize-recover=undefined "$work/planted.cpp" -o "$work/planted-$name.so"
  # Position 4 is one past the end; 4 more than INT_MAX - 3 does not fit.
  if under $name "$work/planted-$name" "$python" -c \
    "import ctypes; ctypes.CDLL('$work/planted-$name.so').planted_$name(4)" 2> "$work/stderr"; then
    verdict 1 "$name: the process went on"
  elif compgen -G "$work/planted-$name/report*" > /dev/null; then
    verdict 0 "$name: $(grep -h -m 1 -oE 'heap-buffer-overflow|signed integer overflow' "$work/planted-$name"/report*)"
  else
    cat "$work/stderr"
    verdict 1 "$name: no report"
  fi
done
say ""

for set in $sets; do
  say "== the library under $set"
  library=${SANITIZED:-$work}/library-${set//,/+}
  "$python" -m convswap.ops.native.build --sanitize "$set" --output "$library" 2>&1 | tail -n 1
  folder="$work/report-${set//,/+}"
  status=0
  # Libraries that tests build for themselves (emulated tiles) are instrumented, too.
  CONVSWAP_NATIVE=1 CONVSWAP_NATIVE_BUILD=$library CONVSWAP_NATIVE_SANITIZE=$set under "$set" "$folder" \
    "$python" -m pytest -n 0 -v --capture=no -p no:cacheprovider --no-header "${tests[@]}" > "$work/out" 2>&1 || status=1
  # A sanitizer that ends the process inside a test speaks there, not in its file.
  grep -a -m 5 -E 'runtime error|ERROR: [A-Za-z]+Sanitizer' "$work/out" | tee -a "$work/log" || true
  if ((status)); then tail -n 60 "$work/out" | tee -a "$work/log"; else tail -n 1 "$work/out" | tee -a "$work/log"; fi
  if spoken "$folder"; then status=1; fi
  verdict $status "${tests[*]}"
  say ""
done

say "$( ((failed)) && echo 'FAILED: see above' || echo 'clean: no sanitizer spoke and every test passed' )"
sed -e "s#$work/##g" -e "s#$root/##g" "$work/log" > "$log"
exit $failed
