"""Small intact results of the embedded model, made by the commands, for tests to read and faults to damage."""
