"""The commands of rules/quant_config.smk."""
