"""The commands of rules/datasets.smk."""
