"""Report parts: plain tables and figures from the results, and the page that contains them."""
