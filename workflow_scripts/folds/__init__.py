"""Commands of rules/folds.smk."""
