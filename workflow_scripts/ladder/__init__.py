"""The commands of rules/ladder.smk."""
