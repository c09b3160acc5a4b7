"""Print how large the token caches of a configuration will be (rule `cache_size`)."""

from depalm.jobs import run_script

run_script("cache-size", snakemake)
