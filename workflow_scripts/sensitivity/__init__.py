"""Commands of rules/sensitivity.smk."""
