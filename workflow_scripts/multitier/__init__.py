"""The commands of rules/multitier.smk."""
