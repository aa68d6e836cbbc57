"""The commands of rules/train.smk."""
