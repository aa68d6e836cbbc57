"""Run planning: configuration, stage parameters, layers and their rules. Standard library only."""
