"""Small sound results of the embedded model, made by the commands themselves: what tests read, and faults damage."""
