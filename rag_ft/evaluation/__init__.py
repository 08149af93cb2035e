"""What an evaluation asks: the systems, the contexts they see, and the probes of robustness."""
