# The environment of the jobs, for machines where none can be set up. Nothing is published: build it from a clone.
#   docker build --tag taqmlx .
#   docker run --rm --volume "$PWD:$PWD" --workdir "$PWD" taqmlx snakemake --cores 2 quant_config
# For Snakemake's own way, one container a job, the image as the file that the Snakefile names:
#   apptainer build taqmlx.sif docker-daemon://taqmlx:latest
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/taqmlx
COPY . .
RUN make venv PYTHON=python3 && rm -rf /root/.cache
# A project's folder comes first on Python's path, so that its own code runs, with these packages.
ENV PATH="/opt/taqmlx/.venv/bin:$PATH"
