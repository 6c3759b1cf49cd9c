"""Scripts that rows run in interpreters of their own, by path; each prints JSON."""
