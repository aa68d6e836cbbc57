"""Commands of rules/weights.smk."""
