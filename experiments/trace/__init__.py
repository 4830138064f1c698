"""Where the time of traced requests went, and their spans for an OpenTelemetry collector: `splitbench trace FOLDER`."""
