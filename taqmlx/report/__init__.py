"""The report's parts: plain tables and figures gathered from the results, and the page they are put on."""
