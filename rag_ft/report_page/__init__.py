"""What the report page is made of: facts from done-files, charts, slices, the question browser, and
the templates."""
