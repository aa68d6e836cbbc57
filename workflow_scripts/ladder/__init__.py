"""Commands of rules/ladder.smk."""
