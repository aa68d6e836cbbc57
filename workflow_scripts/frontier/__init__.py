"""Commands of rules/frontier.smk."""
