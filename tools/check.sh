#!/usr/bin/env bash
# tools/check.sh [--fix] [--tidy [FILE...]] [--all]: the one gate before a change goes in.
#
#   (nothing)   format, layering, build, quick tests (everything but the labels fuzz, upstream and slow)
#   --all       the same with all tests: format and layering, then what `make test` does
#   --format    format only
#   --fix       formats the sources instead of complaining about them, and stops
#   --tidy      clang-tidy over FILE..., or over the sources changed since the last commit, and stops
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.venv/build/bin:$PATH

sources() { git ls-files --cached --others --exclude-standard '*.h' '*.cpp' | while read -r f; do [ -f "$f" ] && echo "$f"; done; }

tidy() {
  local files=("$@")
  if [ ${#files[@]} -eq 0 ]; then
    mapfile -t files < <({ git diff --name-only HEAD; git ls-files --others --exclude-standard; } | grep '\.cpp$' | sort -u)
  fi
  [ ${#files[@]} -eq 0 ] && { echo "check: no changed sources to tidy"; return; }
  tools/build dev viaduct_version_file
  printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 1 clang-tidy-16 -p build/dev --quiet
  echo "check: tidy, ${#files[@]} files"
}

format() {
  mapfile -t files < <(sources)
  if ! printf '%s\0' "${files[@]}" | xargs -0 clang-format-16 --dry-run --Werror --ferror-limit=1; then
    echo "check: tools/check.sh --fix formats them" >&2
    exit 1
  fi
  echo "check: format, ${#files[@]} files"
}

case ${1:-} in
  --format) format ;;
  --fix) sources | xargs clang-format-16 -i; echo "check: formatted" ;;
  --tidy) shift; tidy "$@" ;;
  --all) format; tools/test ;;
  "") format; FUZZ_SECONDS=0 tools/test -LE 'upstream|slow|fuzz' ;;
  *) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
