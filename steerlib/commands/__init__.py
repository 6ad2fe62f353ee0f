"""The commands that make and measure steerings, each a thin face of the library: what `steerlib train` and `steerlib measure` do."""
