"""Tables, charts and reports, derived from a results folder alone."""
