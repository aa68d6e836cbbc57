"""Commands of rules/plots.smk."""
