"""The commands of rules/sensitivity.smk."""
