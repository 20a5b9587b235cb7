"""The base of every measurement: settings, a folder to measure in, the files kept there, and the report."""
