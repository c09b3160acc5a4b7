#!/usr/bin/env bash
# Snakemake runs this in the working directory, which is the root of the repository.
set -euo pipefail
python -m pip install --constraint constraints.txt --editable .
