"""The page that shows a run: `report.html`, one file, nothing outside of it."""
