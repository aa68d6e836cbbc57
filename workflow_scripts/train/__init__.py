"""Commands of rules/train.smk."""
