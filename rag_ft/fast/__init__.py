"""Speed code that only a benchmark justifies. Each file names its benchmark in its first line and
has a plain path that gives the same result; a file that is less than 1.3 times as fast is
deleted."""
