#!/usr/bin/env bash
# Builds the native twin with the address and undefined-behaviour sanitizers, in a copy of the tree, and runs on it the
# tests that stand on it. `sanitized.sh PYTHON [arguments for pytest]`; PYTHON has what the tests need.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$(command -v "${1:-python3}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
shift || true
[ $# -gt 0 ] || set -- tests/native/test_native_accepting.py tests/native/test_native_awaiting.py \
    tests/native/test_native_receiving.py tests/reactor \
    tests/sync/test_sync_everywhere.py tests/sync/test_sync_handing_over.py tests/door tests/bench/test_bench_loop.py

scratch=$(mktemp -d "${TMPDIR:-/tmp}/jackfield-sanitized.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cp -R "$root/native" "$root/src" "$root/tests" "$root/setup.py" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$scratch/"
find "$scratch/src" -name '*.so' -delete
cd "$scratch"

JACKFIELD_SANITIZE=1 JACKFIELD_PURE= "$python" setup.py -q build_ext --inplace
ls src/jackfield/reactor/_native*.so >/dev/null

# The interpreter itself is not built so: the libraries have to be there first. Its own small objects come from malloc,
# where each is seen; what it never frees at its end is no leak of ours.
preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
sanitized() {
    env LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1 \
        UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc PYTHONPATH="$scratch/src" JACKFIELD_PURE= "$python" "$@"
}
sanitized -c 'import pathlib, jackfield.reactor.twin as twin, sys
assert twin.native and pathlib.Path(twin.native.__file__).is_relative_to(sys.argv[1]), twin.native' "$scratch"
# A tool that finds nothing where something is would be no proof: this reads behind an object that is freed.
if sanitized -c 'import ctypes; lib = ctypes.CDLL(None); lib.malloc.restype = ctypes.c_void_p
block = ctypes.c_void_p(lib.malloc(8)); lib.free(block); lib.memcmp(block, block, 8)' >"$scratch/broken" 2>&1 ||
    ! grep -q 'heap-use-after-free' "$scratch/broken"; then
    echo "the address sanitizer does not see a use after free:" >&2
    cat "$scratch/broken" >&2
    exit 1
fi
sanitized -m pytest -q -p no:cacheprovider -o timeout=180 "$@"
