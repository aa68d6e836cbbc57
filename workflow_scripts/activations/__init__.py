"""Commands of rules/activations.smk."""
