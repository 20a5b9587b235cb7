"""The ground that every measurement stands on: settings, a folder to measure in, what is kept there, and its report."""
