"""Commands of rules/quant_config.smk."""
