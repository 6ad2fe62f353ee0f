"""Public benchmarks of bias as tasks: one file per set, read from one pinned package, none of it shipped with steerlib."""
