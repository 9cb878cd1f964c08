"""What a person looks at: tables, a page, plots. From a finished document alone."""
