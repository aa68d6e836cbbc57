"""The commands of rules/evaluation.smk."""
