"""Commands of rules/evaluation.smk."""
