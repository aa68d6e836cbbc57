"""Tools and checks for use by hand."""
