"""One short module for each table or figure."""
