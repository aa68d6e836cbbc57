"""Commands of rules/multitier.smk."""
