"""The commands of rules/prepare.smk."""
