"""What is checked of a folder of results. A check gives a detail and its faults, or None where there is nothing yet."""
