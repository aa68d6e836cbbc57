"""Commands of rules/blocks.smk."""
