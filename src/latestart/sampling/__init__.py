"""Late start on any scheduler, and the sampling loop."""
