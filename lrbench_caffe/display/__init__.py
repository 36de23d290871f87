"""The terminal: tables in each format, sentences, and progress while trainings run."""
