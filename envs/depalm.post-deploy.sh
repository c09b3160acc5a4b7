#!/usr/bin/env bash
# Snakemake runs a copy of this in the working directory. If that is not the root of the checkout, say where it is:
#   DEPALM_CHECKOUT=path/to/depalm snakemake --sdm conda ...
set -euo pipefail
checkout=${DEPALM_CHECKOUT:-.}
if [[ ! -f $checkout/src/depalm/__init__.py ]]; then
  echo "there is no checkout of depalm in $checkout: set DEPALM_CHECKOUT to its folder" >&2
  exit 1
fi
python -m pip install --constraint "$checkout/constraints.txt" --editable "$checkout[clap]"
python -m pip install --constraint "$checkout/constraints.txt" --no-deps laion-clap
