"""How the buckets of a stage are done: here, in processes, or on a Ray cluster."""
