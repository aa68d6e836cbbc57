from snakemake.utils import min_version

min_version("9.12")


configfile: "config/config.yaml"


# Ignored unless Snakemake deploys software: jobs run in the environment of Snakemake. Built with Dockerfile.
container: "taqmlx.sif"


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/inputs.smk"
include: "rules/evaluation_inputs.smk"
include: "rules/prepare.smk"
include: "rules/trajectories.smk"
include: "rules/calibration.smk"
include: "rules/activations.smk"
include: "rules/folds.smk"
include: "rules/blocks.smk"
include: "rules/weights.smk"
include: "rules/quant_config.smk"
include: "rules/ladder.smk"
include: "rules/evaluation.smk"
include: "rules/frontier.smk"
include: "rules/sensitivity.smk"
include: "rules/multitier.smk"
include: "rules/plots.smk"
include: "rules/report.smk"
include: "rules/datasets.smk"
include: "rules/train.smk"
include: "rules/targets.smk"


localrules:
    all,


rule all:
    input:
        "<results>/quant_config.json",
