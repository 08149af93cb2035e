"""Speed code that only a benchmark justifies.

Each file states its benchmark in its first line and stands behind a plain path that gives the same
result. A file that is less than 1.3 times as fast on every processor measured is deleted.
"""
