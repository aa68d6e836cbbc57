"""What is to be made: configuration, parameters of stages, layers and their rules. Standard library only."""
