"""The commands of rules/weights.smk."""
