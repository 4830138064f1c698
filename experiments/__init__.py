"""What is measured: specification, runner, samples, statistics, reports, command line."""
