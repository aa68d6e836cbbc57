"""The commands of rules/activations.smk."""
