"""The commands of rules/report.smk."""
