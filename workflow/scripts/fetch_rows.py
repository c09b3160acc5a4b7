"""Fetch rows from a published token store, and verify them (rule `fetch_rows`)."""

from depalm.jobs import run_script

run_script("fetch-rows", snakemake)
