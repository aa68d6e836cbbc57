"""Commands of rules/prepare.smk."""
