"""The commands of rules/blocks.smk."""
