#!/usr/bin/env bash
# Make sure of the one .venv: create it, install pennyweight with the extras the habits need, build the kernels.
# Idempotent: a stamp holds the hash of everything the environment depends on, so a second call returns at once.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

fail() { echo "error: $*" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "pennyweight needs Python 3.11 or newer; '$python' is $("$python" --version 2>&1 || echo missing). Set PYTHON=/path/to/python3.11."

hash_of() { cat "$@" | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])'; }
stamp=.venv/.stamp-$(hash_of pyproject.toml setup.py src/pennyweight/kernels/cpu/*)
[ -f "$stamp" ] && exit 0

command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
    fail "no C++ compiler found: install g++ or clang++, or name one with CXX=..."
if [ ! -x .venv/bin/python ]; then
    echo "Creating .venv with $("$python" --version)"
    # Some distributions ship Python without ensurepip; virtualenv does not need it.
    "$python" -m venv .venv 2>/dev/null || { rm -rf .venv; echo "python -m venv is not usable here; trying virtualenv" >&2; "$python" -m virtualenv -q .venv; } ||
        fail "neither venv nor virtualenv works: install your distribution's python3-venv package"
fi
echo "Installing pennyweight and its development tools into .venv (a few minutes the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
rm -f .venv/.stamp-*
touch "$stamp"
