"""Commands of rules/report.smk."""
