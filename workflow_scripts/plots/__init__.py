"""The commands of rules/plots.smk."""
