# docker build --tag depalm .
# An image in which the jobs of the workflow run (docs/clusters.md#container), built from this checkout alone.
FROM python:3.11-slim

# Java for caption metrics; libgomp for torch
RUN apt-get update \
 && apt-get install --yes --no-install-recommends default-jre-headless libgomp1 \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/depalm
COPY pyproject.toml constraints.txt README.md LICENSE Snakefile ./
COPY config ./config
COPY profiles ./profiles
COPY src ./src
COPY workflow ./workflow
RUN python -m pip install -c constraints.txt -e '.[clap]' --no-cache-dir \
 && python -m pip install -c constraints.txt --no-deps laion-clap --no-cache-dir

CMD ["depalm", "--help"]
