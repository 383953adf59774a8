#!/usr/bin/env bash
# Writes release/constraints.txt: the versions in the environment of PYTHON, with which the tests ran, of every package
# that the extras for users need; newer ones where an operating system or a Python needs others.
#     bash release/make_constraints.sh .venv/bin/python      (make constraints does this)
set -eu -o pipefail
python=$1
cd "$(dirname "$0")/.."
tested=$(mktemp)
trap 'rm -f "$tested"' EXIT
# Local builds (+cpu) have the version of the release; models and this package are on no index.
"$python" -m pip list --format freeze | sed 's/+[a-z0-9.]*$//' | grep -v -i -E '^(intruders|gt-all|llm-)' >"$tested"
{
  echo "# Made by: make constraints. Use: pip install --constraint release/constraints.txt 'intruders[train]'"
  "$python" -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-annotate --no-header \
    --extra gguf --extra train --extra report --extra lm-eval --extra ray --constraint "$tested"
} >release/constraints.new
mv release/constraints.new release/constraints.txt
