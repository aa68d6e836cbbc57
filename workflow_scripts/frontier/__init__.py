"""The commands of rules/frontier.smk."""
