"""Commands of rules/datasets.smk."""
